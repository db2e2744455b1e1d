"""Compaction: the live records of sparse segments move to the head, and the segments go back to the host.

Done in steps of well under a millisecond, between requests. Moving a record is copying it and then storing one
word in its row, so that a process killed in between leaves the row at the old record or at the new one.
"""

from __future__ import annotations

from typing import Final

from blockstore.errors import OutOfRoom
from blockstore.plane.moves.choice import emptiest
from blockstore.plane.moves.compaction import compact
from blockstore.plane.moves.placed_rows import PlacedRows
from blockstore.plane.tables.tables import Tables
from blockstore.store.state.geometry import SEGMENT_BYTES
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
"""Records moved in one step, about 0.05 ms."""

STEP_ROWS: Final = 1 << 16
"""Rows looked at in one step, about 0.05 ms."""

ROOM_FOR_ONE: Final = 2
MAXIMUM_VICTIMS: Final = 8
"""Segments that are emptied after one look at all rows: one for so many steps of looking."""


class Upkeep:
    """Moves records: has the plane write `where` of rows, and the pool."""

    def __init__(self, rows: Rows, pool: Pool, tables: Tables) -> None:
        self._rows = rows
        self._pool = pool
        self._victims: list[int] = []
        self._placed = PlacedRows(tables)
        """The rows whose records are in victims, when all were looked at."""
        self._is_scanned = False
        self._written = 0  # blocks, for which no step was owed yet

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
        self._leave_out_those_in_use_again()
        if not self._victims and not self._choose(QUIET_WORTH_MOVING if quiet else WORTH_MOVING):
            return False
        if not self._is_scanned:
            # None that was looked at before can have come into a victim since: it is no head.
            if self._placed.scan(self._rows.next_row, STEP_ROWS):
                return True
            # One victim after the other: while the pool is full there is room for no more than one.
            self._placed.sort()
            self._is_scanned = True
        if not self._move():
            self._victims = []
            return False
        self._pool.forgotten(self._victims)
        if not self._placed.left:
            self._victims = []  # one that is left was freed and filled anew behind our back
        return True

    def _garbage_beyond(self, share: float, floor_bytes: int) -> float:
        """The part of the pool that is garbage, above `share`; 0 while there is no more than the floor."""
        garbage_bytes = self._pool.garbage_bytes
        if garbage_bytes <= floor_bytes:
            return 0.0
        return max(garbage_bytes / self._pool.allocated_bytes - share, 0.0)

    def _leave_out_those_in_use_again(self) -> None:
        """Victims whose last records were freed meanwhile: what is in them now is new."""
        full = [segment for segment in self._victims if self._pool.is_full(segment)]
        for segment in set(self._victims).difference(full):
            self._placed.leave_out(segment)
        self._victims = full

    def _choose(self, worth_moving: float) -> bool:
        """Several at once where there are many rows, for all of them must be looked at."""
        segments = self._pool.segments
        count = min(1 + self._rows.next_row // (ROOM_FOR_ONE * STEP_ROWS), MAXIMUM_VICTIMS)
        most_live_bytes = int(worth_moving * SEGMENT_BYTES)
        self._victims = emptiest(self._pool.log, segments.has_memory, segments.is_retired, most_live_bytes, count)
        self._placed.begin(self._victims)
        self._is_scanned = False
        return bool(self._victims)

    def _move(self) -> bool:
        """Moves the next records; False when there is no room for all of them."""
        pool, left = self._pool, min(STEP_RECORDS, self._placed.left)
        pool.take_back()
        try:
            while left := left - compact(pool.log, self._placed, left):
                if pool.log.error:
                    raise pool.append_error()
                pool.take_back()  # a victim may be empty by now
                pool.make_room_for(SEGMENT_BYTES, reserved_segments=0)  # has a spare segment: the head is full
        except OutOfRoom:
            return False
        finally:
            pool.take_back()
        return True
