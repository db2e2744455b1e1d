"""Tests of benchlab.saved."""
