"""What is known of each segment of the pool, as columns of one table that grows in one place.

    column           type   of                meaning
    live_bytes       i64    pool              bytes of records that rows point at
    generation       i64    pool              another number each time that it is filled anew; 0 for those found
    has_memory       u8     pool              is it allocated? 1 or 0
    is_retired       u8     pool              is it empty, and has its memory only until its readers have left? 1 or 0
    read_at          i64    paging            the pool's clock when a read of it was last seen
    full_generation  i64    recompression     the generation that was seen to be full, -1 for none
    full_since_s     f64    recompression     since when
    first_look       i64    recompression     the generation of which all was tried once, -1 for none
    second_look      i64    recompression     the same, with the slower encoder

A module writes its own columns and may read all. Growing replaces the arrays, because one that compiled code looks at
cannot get longer: none may be kept from one visit to the store to the next. `live_bytes` is changed by the log alone
(plane/tables/log.pyi), which knows the sum. None of it is stored: it is learned anew, or forgotten, at each start.
"""

from __future__ import annotations

from array import array


class Segments:
    """Of one pool."""

    def __init__(self, count: int) -> None:
        self.count = 0
        self.live_bytes = array("q")
        self.generation = array("q")
        self.has_memory = array("B")
        self.is_retired = array("B")
        self.read_at = array("q")
        self.full_generation = array("q")
        self.full_since_s = array("d")
        self.first_look = array("q")
        self.second_look = array("q")
        self.grow(count)

    def grow(self, count: int) -> None:
        """Makes it a table of `count` segments, which are no fewer than before. Raises MemoryError, and then nothing
        has changed."""
        more = count - self.count
        assert more >= 0
        live_bytes, generation = self.live_bytes + _numbers(more), self.generation + _numbers(more)
        has_memory, is_retired = self.has_memory + array("B", bytes(more)), self.is_retired + array("B", bytes(more))
        read_at, full_since_s = self.read_at + _numbers(more), self.full_since_s + array("d", [0.0]) * more
        full_generation = self.full_generation + _numbers(more, -1)
        first_look, second_look = self.first_look + _numbers(more, -1), self.second_look + _numbers(more, -1)
        self.live_bytes, self.generation, self.has_memory, self.is_retired = (
            live_bytes,
            generation,
            has_memory,
            is_retired,
        )
        self.read_at, self.full_since_s, self.full_generation = read_at, full_since_s, full_generation
        self.first_look, self.second_look, self.count = first_look, second_look, count


def _numbers(count: int, initial: int = 0) -> array[int]:
    return array("q", [initial]) * count
