"""Tests of benchlab.cost."""
