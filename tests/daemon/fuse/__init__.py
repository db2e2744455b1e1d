"""Tests of blockstore.daemon.fuse."""
