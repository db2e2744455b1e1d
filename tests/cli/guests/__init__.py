"""Tests of blockstore.cli.guests."""
