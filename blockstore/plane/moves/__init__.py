"""Records that move: what of them is cold, and is encoded anew."""
