"""The benchmark of blockstore: the figures that issue 2 promises, each a ratio within one run. See `scripts/bench`."""
