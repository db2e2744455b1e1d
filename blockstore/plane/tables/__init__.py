"""The tables of a store for compiled code: rows, maps, indexes, the log of records, and what judges and counts them."""
