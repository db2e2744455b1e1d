"""Records that move: to the head of the log or to the tier as they are, and cold ones encoded anew."""
