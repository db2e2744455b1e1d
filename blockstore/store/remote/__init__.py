"""Blocks that are not here: due ones of pushed snapshots, records in a tier, and fetching them."""
