"""Tests of benchlab.peers."""
