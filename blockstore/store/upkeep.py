"""Compaction: the live records of a sparse segment move to the head, and the segment goes back to the host.

Done in steps of well under a millisecond, between requests. Moving a record is copying it and then storing one
word in its row, so that a process killed in between leaves the row at the old record or at the new one.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from blockstore.errors import OutOfRoom
from blockstore.store.geometry import (
    ENCODING_MASK,
    FIRST_ROW,
    OFFSET_SHIFT,
    SEGMENT_BYTES,
    SEGMENT_SHIFT,
    SIZE_MASK,
    SIZE_SHIFT,
    WHERE_SEGMENT_SHIFT,
)
from blockstore.store.pool import Pool
from blockstore.store.rows import Rows

GARBAGE_SHARE: Final = 0.15
"""Compact when more than this share of the pool is garbage; a lower share moves each record more often."""

GARBAGE_FLOOR_BYTES: Final = 4 * SEGMENT_BYTES
QUIET_GARBAGE_FLOOR_BYTES: Final = SEGMENT_BYTES
"""Less garbage than this is left alone, however small the pool."""

WORTH_MOVING: Final = 0.9
"""A segment that is live above this share is never moved: it would free less than it costs."""

QUIET_GARBAGE_SHARE: Final = 0.03
QUIET_WORTH_MOVING: Final = 0.97
"""The same two while nobody writes: then there is time for more, and what is moved stays where it is."""

STEP_RECORDS: Final = 128
"""Records moved in one step, about 0.2 ms."""

STEP_ROWS: Final = 1 << 16
"""Rows looked at in one step, about 0.1 ms."""


class Upkeep:
    """Moves records: writes `where` of rows, and the pool."""

    def __init__(self, rows: Rows, pool: Pool) -> None:
        self._rows = rows
        self._pool = pool
        self._victim = -1
        self._scanned = 0  # rows below this were looked at for records in the victim
        self._pending: list[int] = []

    def due(self, *, quiet: bool = False) -> bool:
        """Is a segment half emptied, or so much garbage there that one should be? `quiet`: while nobody writes."""
        if self._victim >= 0:
            return True
        garbage_bytes, pool_bytes = self._pool.garbage_bytes, self._pool.allocated_bytes
        if quiet:
            return garbage_bytes > max(QUIET_GARBAGE_FLOOR_BYTES, QUIET_GARBAGE_SHARE * pool_bytes)
        return garbage_bytes > max(GARBAGE_FLOOR_BYTES, GARBAGE_SHARE * pool_bytes)

    def step(self, *, quiet: bool = False) -> bool:
        """Do a bounded piece of work; False when there was nothing worth doing, or no room to do it."""
        if self._victim >= 0 and not self._pool.is_full(self._victim):
            self._victim = -1  # its last record was freed meanwhile, and it may be in use again already
        if self._victim < 0 and not self._choose(QUIET_WORTH_MOVING if quiet else WORTH_MOVING):
            return False
        if not self._pending and self._scanned < self._rows.next_row:
            self._scan()
        records, self._pending = self._pending[:STEP_RECORDS], self._pending[STEP_RECORDS:]
        for row in records:
            if not self._move(row):
                self._victim = -1
                return False
        if not self._pool.live_bytes[self._victim]:
            self._pool.release_segment(self._victim)
            self._victim = -1
        elif not self._pending and self._scanned >= self._rows.next_row:
            self._victim = -1  # it was freed and filled anew behind our back
        return True

    def _choose(self, worth_moving: float) -> bool:
        segment, live_bytes = self._pool.emptiest()
        if segment < 0 or live_bytes > worth_moving * SEGMENT_BYTES:
            return False
        self._victim, self._scanned, self._pending = segment, FIRST_ROW, []
        return True

    def _scan(self) -> None:
        """Look at some more rows. None that was looked at before can have come into the victim since: it is no head."""
        end = min(self._scanned + STEP_ROWS, self._rows.next_row)
        where = self._rows.where.array[self._scanned : end]
        in_victim = (where >> np.uint64(WHERE_SEGMENT_SHIFT) == self._victim) & (where != 0)
        self._pending = (np.flatnonzero(in_victim) + self._scanned).tolist()
        self._scanned = end

    def _move(self, row: int) -> bool:
        """Move one record, unless its row was freed or moved since it was listed. False when there is no room."""
        where, pool = self._rows.where.items[row], self._pool
        if not where or where >> WHERE_SEGMENT_SHIFT != self._victim:
            return True
        offset, size_bytes = where >> OFFSET_SHIFT, where >> SIZE_SHIFT & SIZE_MASK
        try:
            record = pool.view[offset : offset + size_bytes]
            target = int(pool.append([record], np.array([size_bytes]), reserved_segments=0)[0])
        except OutOfRoom:
            return False
        self._rows.where.items[row] = target << OFFSET_SHIFT | where & ((1 << OFFSET_SHIFT) - 1)
        pool.live_bytes[offset >> SEGMENT_SHIFT] -= size_bytes
        return True


assert ENCODING_MASK | SIZE_MASK << SIZE_SHIFT == (1 << OFFSET_SHIFT) - 1  # what a move leaves as it is
