"""Tests of death: at random moments, at any line, before any store of compiled code, while rows grow."""
