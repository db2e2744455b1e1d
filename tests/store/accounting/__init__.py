"""Tests of blockstore.store.accounting."""
