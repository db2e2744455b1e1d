"""Tests of scripts/suitelab."""
