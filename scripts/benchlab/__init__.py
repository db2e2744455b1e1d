"""The benchmark of blockstore: the figures that are promised, each a ratio within one run. See `scripts/bench`."""
