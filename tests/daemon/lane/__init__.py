"""Tests of blockstore.daemon.lane."""
