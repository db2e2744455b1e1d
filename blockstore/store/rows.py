"""The block rows: one for each stored content, as columns of shared memory.

    column      type  kept                meaning
    where       u64   state, the truth    encoding, record size, offset in the pool (geometry.py); 0 is a free row
    digest      u64   state               keyed XXH3 of the content
    reference   u32   state               the row that a patch is against; of others 0, or a hint (geometry.py)
    domain      u16   state               index of the domain that may share it
    count       u32   rebuilt at start    map entries that point here
    dependents  u16   rebuilt at start    patches against this row

28 bytes a row. A row is filled with `where` last, and published by a map entry only then; it is freed when
`count` and `dependents` are both zero. Written by ingest (new rows), release (counts, freeing), upkeep and densify
(`where`).
"""

from __future__ import annotations

from array import array
from typing import Final

import numpy as np
import numpy.typing as npt

from blockstore.store.geometry import FIRST_ROW, PATCH_BITS
from blockstore.store.home import Home
from blockstore.store.shared_array import SharedArray

MAXIMUM_DEPENDENTS: Final = 60_000
"""Patches against one row, below what its 16-bit column can count. A busier reference is no candidate any more."""

_PATCH: Final = np.uint64(PATCH_BITS)
_FIRST_CAPACITY: Final = 4096
_CAPACITY_STEP: Final = 2048
"""The narrowest column fills whole pages then, and so do all others: they have one length."""

_GROWTH: Final = 1.125
"""Small steps, because an unused row costs as much as a used one and the budget for tables is 1.5 %."""


class Rows:
    """Columns and the stack of free rows."""

    def __init__(self, home: Home) -> None:
        self.where = SharedArray(home, "rows-where", "Q", _FIRST_CAPACITY)
        self.digest = SharedArray(home, "rows-digest", "Q", _FIRST_CAPACITY)
        self.reference = SharedArray(home, "rows-reference", "I", _FIRST_CAPACITY)
        self.domain = SharedArray(home, "rows-domain", "H", _FIRST_CAPACITY)
        self.count = SharedArray(home, "rows-count", "I", _FIRST_CAPACITY)
        self.dependents = SharedArray(home, "rows-dependents", "H", _FIRST_CAPACITY)
        self._columns = (self.where, self.digest, self.reference, self.domain, self.count, self.dependents)
        self.capacity = 0
        # A start after a growth that was killed half-way finds columns of unequal length.
        self._grow(max(column.capacity for column in self._columns))
        self.free = array("I")
        self.next_row = FIRST_ROW
        self.changed: npt.NDArray[np.bool_] | None = None
        """While somebody compares counts with the maps (verify.py): the rows whose counts have changed meanwhile."""

    @property
    def size_bytes(self) -> int:
        return sum(column.size_bytes for column in self._columns)

    @property
    def live(self) -> int:
        """Rows in use."""
        return self.next_row - FIRST_ROW - len(self.free)

    def reserve(self, rows: int) -> None:
        """Make sure that so many can be taken. Raises OutOfRoom. May replace the columns' views."""
        missing = self.next_row + rows - len(self.free) - self.capacity
        if missing > 0:
            self._grow(max(self.capacity + missing, int(self.capacity * _GROWTH)))

    def take(self, count: int) -> npt.NDArray[np.uint32]:
        """Unused rows, for which room was reserved."""
        reused = min(count, len(self.free))
        rows = np.arange(self.next_row, self.next_row + count, dtype=np.uint32)
        if reused:
            rows[count - reused :] = self.free[-reused:]
            del self.free[-reused:]
        self.next_row += count - reused
        return rows

    def mark_changed(self, rows: npt.NDArray[np.int64]) -> None:
        """The counts of these rows change."""
        if self.changed is not None:
            self.changed[rows[rows < len(self.changed)]] = True

    def give_back(self, rows: npt.NDArray[np.int64]) -> None:
        """Free these rows: their words become 0 first, so that nothing can find them."""
        self.where.array[rows] = 0
        self.free.frombytes(rows.astype(np.uint32).tobytes())

    def rebuild(self, references_of_maps: npt.NDArray[np.int64]) -> None:
        """At start: set the counts from the maps (`references_of_maps[row]`), free rows that nothing points at.

        Rows that a killed process filled but did not publish, and references of patches that are gone, end here.
        """
        where, reference = self.where.array, self.reference.array
        self.count.clear()
        self.count.array[: len(references_of_maps)] = references_of_maps
        self.count.array[:FIRST_ROW] = 0
        orphan = (self.count.array == 0) & (where & _PATCH == _PATCH)
        where[orphan] = 0
        patched = np.flatnonzero(where & _PATCH == _PATCH)
        dependents = np.bincount(reference[patched], minlength=self.capacity)
        self.dependents.array[:] = dependents.astype(np.uint16)
        where[(self.count.array == 0) & (self.dependents.array == 0)] = 0
        used = np.flatnonzero(where)
        self.next_row = int(used[-1]) + 1 if len(used) else FIRST_ROW
        free = np.flatnonzero(where[FIRST_ROW : self.next_row] == 0) + FIRST_ROW
        self.free = array("I", free[::-1].astype(np.uint32).tobytes())

    def _grow(self, capacity: int) -> None:
        capacity = -(-capacity // _CAPACITY_STEP) * _CAPACITY_STEP
        for column in self._columns:
            column.grow(capacity)
        self.capacity = capacity

    def close(self) -> None:
        for column in self._columns:
            column.close()
