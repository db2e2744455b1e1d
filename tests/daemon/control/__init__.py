"""Tests of blockstore.daemon.control."""
