"""Tests of blockstore.vm.snapshot."""
