"""Tests of blockstore.store.tiers, against real servers."""
