"""Tests of blockstore.cli.watch."""
