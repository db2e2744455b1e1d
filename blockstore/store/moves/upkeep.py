"""Compaction: the live records of sparse segments move to the head, and the segments go back to the host.

Done in steps of well under a millisecond, between requests. Moving a record is copying it and then storing one
word in its row, so that a process killed in between leaves the row at the old record or at the new one.
"""

from __future__ import annotations

from array import array
from typing import Final

import numpy as np

from blockstore.errors import OutOfRoom
from blockstore.store.state.geometry import (
    FIRST_ROW,
    SEGMENT_BYTES,
)
from blockstore.store.state.location import moved, offset_of, place_of, places_of, size_of
from blockstore.store.state.pool import Pool
from blockstore.store.state.rows import Rows

GARBAGE_SHARE: Final = 0.1
"""Compact when more than this share of the pool is garbage; a lower share moves each record more often. With segments
that are being filled, less than 15 % of a pool of 64 MiB or more hold no record."""

GARBAGE_FLOOR_BYTES: Final = 4 * SEGMENT_BYTES
QUIET_GARBAGE_FLOOR_BYTES: Final = SEGMENT_BYTES
"""Less garbage than this is left alone, however small the pool."""

OWED_AT_SHARE: Final = 0.01
MAXIMUM_OWED: Final = 6
"""With more garbage than that, writers compact as they go: one step for STEP_RECORDS blocks written, one more for
each further hundredth. Without that garbage grows as long as somebody writes all the time."""

WORTH_MOVING: Final = 0.9
"""A segment that is live above this share is never moved: it would free less than it costs."""

QUIET_GARBAGE_SHARE: Final = 0.03
QUIET_WORTH_MOVING: Final = 0.97
"""The same two while nobody writes: then there is time for more, and what is moved stays where it is."""

STEP_RECORDS: Final = 128
"""Records moved in one step, about 0.2 ms."""

STEP_ROWS: Final = 1 << 16
"""Rows looked at in one step, about 0.1 ms."""

ROOM_FOR_ONE: Final = 2
MAXIMUM_VICTIMS: Final = 8
"""Segments that are emptied after one look at all rows: one for so many steps of looking."""


class Upkeep:
    """Moves records: writes `where` of rows, and the pool."""

    def __init__(self, rows: Rows, pool: Pool) -> None:
        self._rows = rows
        self._pool = pool
        self._victims: list[int] = []
        self._written = 0  # blocks, for which no step was owed yet
        self._scanned = 0  # rows below this were looked at for records in the victims
        self._is_scanned = False
        self._found: list[int] = []
        self._pending: list[int] = []

    def due(self, *, quiet: bool = False) -> bool:
        """Is a segment half emptied, or so much garbage there that one should be? `quiet`: while nobody writes."""
        if self._victims:
            return True
        if quiet:
            return self._garbage_beyond(QUIET_GARBAGE_SHARE, QUIET_GARBAGE_FLOOR_BYTES) > 0
        return self._garbage_beyond(GARBAGE_SHARE, GARBAGE_FLOOR_BYTES) > 0

    def owed_steps(self, blocks: int) -> int:
        """Returns how many steps whoever has written so many blocks is to take, for the share of garbage that there is.
        Less than STEP_RECORDS blocks are put down to who writes the next ones."""
        written, self._written = divmod(self._written + blocks, STEP_RECORDS)
        beyond = self._garbage_beyond(GARBAGE_SHARE, GARBAGE_FLOOR_BYTES) if written else 0.0
        return min(1 + int(beyond / OWED_AT_SHARE), MAXIMUM_OWED) * written if beyond else 0

    def step(self, *, quiet: bool = False) -> bool:
        """Do a bounded piece of work; False when there was nothing worth doing, or no room to do it."""
        # One whose last record was freed meanwhile may be in use again already.
        self._victims = [segment for segment in self._victims if self._pool.is_full(segment)]
        if not self._victims and not self._choose(QUIET_WORTH_MOVING if quiet else WORTH_MOVING):
            return False
        if not self._is_scanned:
            self._scan()
            if not self._is_scanned:
                return True
        records, self._pending = self._pending[:STEP_RECORDS], self._pending[STEP_RECORDS:]
        for row in records:
            if not self._move(row):
                self._victims = []
                return False
        if not self._pending:
            self._victims = []  # one that is left was freed and filled anew behind our back
        return True

    def _garbage_beyond(self, share: float, floor_bytes: int) -> float:
        """The part of the pool that is garbage, above `share`; 0 while there is no more than the floor."""
        garbage_bytes = self._pool.garbage_bytes
        if garbage_bytes <= floor_bytes:
            return 0.0
        return max(garbage_bytes / self._pool.allocated_bytes - share, 0.0)

    def _choose(self, worth_moving: float) -> bool:
        """Several at once where there are many rows, for all of them must be looked at."""
        count = min(1 + self._rows.next_row // (ROOM_FOR_ONE * STEP_ROWS), MAXIMUM_VICTIMS)
        self._victims = [
            segment
            for segment in self._pool.emptiest(count)
            if self._pool.segments.live_bytes[segment] <= worth_moving * SEGMENT_BYTES
        ]
        self._scanned, self._is_scanned = FIRST_ROW, False
        self._found, self._pending = [], []
        return bool(self._victims)

    def _scan(self) -> None:
        """Look at some more rows. None that was looked at before can have come into a victim since: it is no head."""
        end = min(self._scanned + STEP_ROWS, self._rows.next_row)
        where = self._rows.where.array[self._scanned : end]
        segments = places_of(where)
        in_victims = np.zeros(len(where), dtype=np.bool_)
        for segment in self._victims:
            in_victims |= segments == segment
        self._found += (np.flatnonzero(in_victims & (where != 0)) + self._scanned).tolist()
        self._scanned = end
        if end == self._rows.next_row:
            # One victim after the other: while the pool is full there is room for no more than one.
            items = self._rows.where.items
            self._pending = sorted(self._found, key=lambda row: place_of(items[row]))
            self._is_scanned = True

    def _move(self, row: int) -> bool:
        """Move one record, unless its row was freed or moved since it was listed. False when there is no room."""
        where, pool = self._rows.where.items[row], self._pool
        if not where or place_of(where) not in self._victims:
            return True
        offset, size_bytes = offset_of(where), size_of(where)
        try:
            record = pool.view[offset : offset + size_bytes]
            (target,) = pool.append([record], [size_bytes], reserved_segments=0)
        except OutOfRoom:
            return False
        self._rows.where.items[row] = moved(where, target)
        pool.forget(array("Q", (where,)))
        return True
