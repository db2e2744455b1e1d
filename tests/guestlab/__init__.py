"""Tests of the guest lab in scripts/."""
