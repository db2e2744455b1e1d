"""Blocks of a store: read, encoded, committed, discarded and cloned."""
