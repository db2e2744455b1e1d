"""Tests of the bench in scripts/."""
