"""Tests of blockstore.daemon.supervise."""
