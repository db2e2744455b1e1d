"""The store: every 4 KiB block of VM memory once, shared, patched or compressed. Knows neither FUSE nor QEMU.

Read from the bottom: `state` (files as memory, and the tables in them; the indexes are in blockstore/plane); volume,
domains, decode, references, ingest, recovery, changes (what is done with them); `moves`, `remote` and `tiers` (records
that move, and blocks that are not here); steps (for those who use it); store (the face); `checks` and `accounting` (is
it whole, and what it amounts to). pyproject.toml says which of these may be used from above.
"""
