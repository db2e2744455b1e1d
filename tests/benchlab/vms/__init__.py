"""Tests of benchlab.vms."""
