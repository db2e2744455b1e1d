"""Tests of blockstore.store.remote."""
