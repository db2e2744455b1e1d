"""Tests of scripts/soaklab."""
