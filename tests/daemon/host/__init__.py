"""Tests of blockstore.daemon.host."""
