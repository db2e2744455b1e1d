"""Tests of blockstore.cli.views."""
