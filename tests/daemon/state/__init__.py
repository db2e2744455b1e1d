"""Tests of blockstore.daemon.state."""
