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
from collections.abc import Iterable
from itertools import accumulate
from typing import TYPE_CHECKING, Final

from blockstore.plane.tables.free_rows import ChangedRows, FreeRows
from blockstore.plane.tables.recount import count_dependents, free_unneeded, list_free, set_counts
from blockstore.plane.tables.tables import Tables
from blockstore.store.state.geometry import FIRST_ROW
from blockstore.store.state.home import Home
from blockstore.store.state.mapping import MAXIMUM_ROWS
from blockstore.store.state.shared_array import SharedArray
from blockstore.store.state.spread import parts_of, spread
from blockstore.store.state.untouched import numbers_to_fill

if TYPE_CHECKING:
    from blockstore.plane.buffers import U32s

MAXIMUM_DEPENDENTS: Final = 60_000
"""Patches against one row, below what its 16-bit column can count. A busier reference is no candidate any more."""

_FIRST_CAPACITY: Final = 4096
_CAPACITY_STEP: Final = 2048
"""The narrowest column fills whole pages then, and so do all others: they have one length."""

_GROWTH: Final = 1.125
_LARGEST_STEP: Final = 32_768
"""Rows grow by an eighth, or by so many: an unused row costs as much as a used one, and the kernel takes a quarter of a
millisecond to clear the 0.9 MB of these."""


class Rows:
    """Columns and the stack of free rows."""

    def __init__(self, home: Home, tables: Tables | None = None) -> None:
        """Open the rows in `home`, and bind them to `tables`, those of the store."""
        self._tables = tables or Tables()
        self.where = SharedArray(home, "rows-where", "Q", _FIRST_CAPACITY, most=MAXIMUM_ROWS)
        self.digest = SharedArray(home, "rows-digest", "Q", _FIRST_CAPACITY, most=MAXIMUM_ROWS)
        self.reference = SharedArray(home, "rows-reference", "I", _FIRST_CAPACITY, most=MAXIMUM_ROWS)
        self.domain = SharedArray(home, "rows-domain", "H", _FIRST_CAPACITY, most=MAXIMUM_ROWS)
        self.count = SharedArray(home, "rows-count", "I", _FIRST_CAPACITY, most=MAXIMUM_ROWS)
        self.dependents = SharedArray(home, "rows-dependents", "H", _FIRST_CAPACITY, most=MAXIMUM_ROWS)
        self._columns = (self.where, self.digest, self.reference, self.domain, self.count, self.dependents)
        self.capacity = 0
        self.free = FreeRows()
        self.changed_rows = ChangedRows()
        self._changed: bytearray | None = None
        # A start after a growth that was killed half-way finds columns of unequal length.
        self._grow(max(column.capacity for column in self._columns))

    @property
    def changed(self) -> bytearray | None:
        """While counts are compared with the maps (verify.py): 1 for each row whose counts have changed meanwhile."""
        return self._changed

    @changed.setter
    def changed(self, marks: bytearray | None) -> None:
        self._changed = marks
        self.changed_rows.watch(marks)

    @property
    def next_row(self) -> int:
        """No row from here on was ever used."""
        return self.free.next_row

    @property
    def size_bytes(self) -> int:
        return sum(column.size_bytes for column in self._columns)

    @property
    def live(self) -> int:
        """Rows in use."""
        return self.free.in_use

    def reserve(self, rows: int) -> None:
        """Make sure that so many can be taken. Raises OutOfRoom. The columns' views get longer."""
        missing = rows - self.free.left
        if missing > 0:
            step = min(int(self.capacity * (_GROWTH - 1)), _LARGEST_STEP)
            self._grow(self.capacity + max(missing, step))

    def take(self, count: int) -> array[int]:
        """Unused rows, for which room was reserved."""
        return self.free.take(count)

    def give_back(self, rows: Iterable[int]) -> None:
        """Free these rows: their words become 0 first, so that nothing can find them."""
        self.free.clear(self._tables, array("I", rows))

    def rebuild(self, references_of_maps: U32s) -> None:
        """At start: set the counts from the maps (`references_of_maps[row]`), free rows that nothing points at.

        Rows that a killed process filled but did not publish, and references of patches that are gone, end here.
        """
        tables, parts = self._tables, parts_of(self.capacity)
        spread(lambda first, end: set_counts(tables, references_of_maps, first, end), parts)
        spread(lambda first, end: count_dependents(tables, first, end), parts)
        in_use = spread(lambda first, end: free_unneeded(tables, first, end), parts)
        next_row = max([FIRST_ROW, *(behind_last for _, behind_last in in_use)])
        used_before = [0, *accumulate(used for used, _ in in_use)]
        free = numbers_to_fill(next_row - FIRST_ROW - used_before[-1])
        before = [max(first - FIRST_ROW, 0) - used for (first, _), used in zip(parts, used_before, strict=False)]
        ends = [(first, min(end, next_row), count) for (first, end), count in zip(parts, before, strict=True)]
        spread(lambda first, end, count: list_free(tables, first, end, count, free), ends)
        self.free.reset(next_row, free)

    def _grow(self, capacity: int) -> None:
        capacity = -(-capacity // _CAPACITY_STEP) * _CAPACITY_STEP
        for column in self._columns:
            column.grow(capacity)
        self.free.grow(capacity)  # before there are more rows than can be freed, and not where a column could not grow
        self._tables.bind_rows(
            self.where.items,
            self.digest.items,
            self.reference.items,
            self.domain.items,
            self.count.items,
            self.dependents.items,
        )
        self.capacity = capacity

    def close(self) -> None:
        self._tables.unbind()
        for column in self._columns:
            column.close()
