"""Tests of blockstore.store: no FUSE, no QEMU, no daemon."""
