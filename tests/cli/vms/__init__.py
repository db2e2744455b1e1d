"""Tests of blockstore.cli.vms."""
