"""The store: every 4 KiB block of VM memory once, shared, patched or compressed. Knows neither FUSE nor QEMU.

Read from the bottom: geometry, codec (pure); home, mapping, shared_array, sync_range (files as memory); pool,
rows, volume, domains (the tables; the indexes are in blockstore/plane); decode, references,
ingest, upkeep, densify, paging, recovery (what is done with them); remote, recompression, mover (the same as a whole);
steps, fetch (for those who use it); store (the face); census, comparison, report (what it amounts to). pyproject.toml
says which of these may be used from above.
"""
