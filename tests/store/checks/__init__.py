"""Tests of blockstore.store.checks."""
