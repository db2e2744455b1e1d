"""Records that move: compaction, recompression, paging between pool and tier."""
