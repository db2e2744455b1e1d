"""Tests of blockstore.cli.types."""
