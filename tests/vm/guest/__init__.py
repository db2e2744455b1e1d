"""Tests of blockstore.vm.guest."""
