"""Tests of blockstore.vm.fork."""
