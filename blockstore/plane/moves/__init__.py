"""Records that move: found by where they are, copied to the head of the log or gathered for the tier, and published."""
