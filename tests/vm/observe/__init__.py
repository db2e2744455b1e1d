"""Tests of blockstore.vm.observe."""
