"""Tests of blockstore.store.state."""
