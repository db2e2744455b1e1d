"""Tests of blockstore/plane."""
