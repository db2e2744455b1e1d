"""What is known of each segment of the pool, as columns of one table that grows in one place.

    column           type   of                meaning
    live_bytes       i64    pool              bytes of records that rows point at
    generation       i64    pool              another number each time that it is filled anew; 0 for those found
    has_memory       bool   pool              is it allocated?
    is_retired       bool   pool              is it empty, and has its memory only until its readers have left?
    read_at          i64    paging            the pool's clock when a read of it was last seen
    full_generation  i64    recompression     the generation that was seen to be full, -1 for none
    full_since_s     f64    recompression     since when
    first_look       i64    recompression     the generation of which all was tried once, -1 for none
    second_look      i64    recompression     the same, with the slower encoder

A module writes its own columns and may read all. Growing replaces the arrays: none may be kept from one visit to the
store to the next. None of it is stored: it is learned anew, or forgotten, at each start.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import numpy.typing as npt

Scalar = TypeVar("Scalar", np.int64, np.float64, np.bool_)


class Segments:
    """Of one pool."""

    def __init__(self, count: int) -> None:
        self.count = 0
        self.live_bytes = np.zeros(0, dtype=np.int64)
        self.generation = np.zeros(0, dtype=np.int64)
        self.has_memory = np.zeros(0, dtype=np.bool_)
        self.is_retired = np.zeros(0, dtype=np.bool_)
        self.read_at = np.zeros(0, dtype=np.int64)
        self.full_generation = np.zeros(0, dtype=np.int64)
        self.full_since_s = np.zeros(0, dtype=np.float64)
        self.first_look = np.zeros(0, dtype=np.int64)
        self.second_look = np.zeros(0, dtype=np.int64)
        self.grow(count)

    def grow(self, count: int) -> None:
        """Makes it a table of `count` segments, which are no fewer than before."""
        more = count - self.count
        assert more >= 0
        self.live_bytes = _longer(self.live_bytes, more)
        self.generation = _longer(self.generation, more)
        self.has_memory = _longer(self.has_memory, more)
        self.is_retired = _longer(self.is_retired, more)
        self.read_at = _longer(self.read_at, more)
        self.full_generation = _longer(self.full_generation, more, -1)
        self.full_since_s = _longer(self.full_since_s, more)
        self.first_look = _longer(self.first_look, more, -1)
        self.second_look = _longer(self.second_look, more, -1)
        self.count = count


def _longer(column: npt.NDArray[Scalar], more: int, initial: int = 0) -> npt.NDArray[Scalar]:
    return np.concatenate((column, np.full(more, initial, dtype=column.dtype)))
