"""Tests of blockstore.vm.qemu."""
