"""Chooses the segments and pieces that are to be moved next: the least or most of a column.

With the store lock, and without the interpreter's. `has_memory` and `is_retired` are columns of the segments
(store/state/segments.py), a byte each. A segment is *full* when it has memory, is not retired and is neither the head
nor the spare one. Where columns differ in length, the shortest counts.
"""

from collections.abc import Container

from blockstore.plane.buffers import Bytes, I64s
from blockstore.plane.tables.log import Log

def emptiest(log: Log, has_memory: Bytes, is_retired: Bytes, most_live_bytes: int, most: int) -> list[int]:
    """Returns at most `most` full segments, the emptiest first; none that has more than `most_live_bytes`. Raises
    MemoryError."""

def coldest(log: Log, has_memory: Bytes, is_retired: Bytes, read_at: I64s, most: int) -> list[int]:
    """Returns at most `most` full segments, the coldest first: by their generation, or when they were last read if that
    is later. Raises MemoryError."""

def warmest(heat: I64s, least: int, most: int) -> list[int]:
    """Returns at most `most` pieces of a heat of `least` or more, the warmest first, and halves the heat of all. Raises
    MemoryError."""

def sparse(lengths: I64s, live_bytes: I64s, unfit: Container[int], share: float, most_bytes: int) -> list[int]:
    """Returns pieces of which less than this share of their length is live, those of the fewest live bytes first, as
    many as have at most `most_bytes` of these together; none that is `unfit`. Raises MemoryError."""
