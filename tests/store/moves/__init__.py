"""Tests of blockstore.store.moves."""
