"""Tests of benchlab.latency."""
