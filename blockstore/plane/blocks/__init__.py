"""Blocks of a store: read, encoded, committed."""
