"""Tests of blockstore.daemon.tiers."""
