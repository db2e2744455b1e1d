"""Tests of blockstore.daemon.namespace."""
