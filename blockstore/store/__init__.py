"""The store: every 4 KiB block of VM memory once, shared, patched or compressed. Knows neither FUSE nor QEMU.

Read from the bottom: geometry, codec, dense, features (pure); home, shared_array, sync_range (files as memory); pool,
rows, content_index, similarity_index, volume, domains (the tables); decode, references, ingest, upkeep, densify (what
is done with them); store (the face); census (what it amounts to).
"""
