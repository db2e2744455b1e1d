"""Tests of blockstore.vm.memory."""
