"""Tests of blockstore.cli.mounts."""
