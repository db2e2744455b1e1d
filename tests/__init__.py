"""Tests of blockstore, in folders that mirror the package."""
