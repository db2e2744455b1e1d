"""The pool: one file of segments, into which records are appended.

Records are appended to the *head* segment with write(2) and read through one mapping of the whole, sparse file,
of which only what was written is ever touched. A segment's memory goes back to the host when no row points into it
any more. A record never changes: what is overwritten or freed leaves *garbage* behind, which compaction
(upkeep.py) turns into free segments.

Records may be in a tier instead, in *pieces* (pieces.py); words of rows that say so are PAGED. What is still at another
host stands in `arrivals`.

Written by compiled code, through `log`: commit, compaction, re-encoding and paging append and let go, for which they
have room made here (`make_room_for`) and what they let go taken back (`take_back`); and by repair (mend).
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
from array import array
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final, NamedTuple

from blockstore.errors import InputError, OutOfRoom
from blockstore.plane.sync.epochs import Epochs
from blockstore.plane.sync.region import Region
from blockstore.plane.tables.log import MOST_LET_GO, Log
from blockstore.plane.tables.recount import count_records, list_unused
from blockstore.plane.tables.soundness import Places
from blockstore.plane.tables.tables import Tables
from blockstore.store.moves.pieces import Pieces
from blockstore.store.remote.arrivals import Arrivals
from blockstore.store.state.geometry import SEGMENT_BYTES
from blockstore.store.state.home import Home, lack_of_room, no_room_under, punch
from blockstore.store.state.mapping import LEAST_POOL_BYTES, POOL_FACTOR, extend, map_region
from blockstore.store.state.pool_limit import MAXIMUM_LIMIT_BYTES, check_limit
from blockstore.store.state.segments import Segments
from blockstore.store.state.spread import share

if TYPE_CHECKING:
    from blockstore.plane.buffers import U64s

COMPACTION_RESERVE_SEGMENTS: Final = 2
"""Kept free of new records, so that compaction can always move the live records of one segment somewhere."""


class PoolFigures(NamedTuple):
    """Of a pool, in bytes: the limit, what the host pays, what of that nobody needs, and what can still be appended.
    `reserve_bytes` is kept free to compact with."""

    limit_bytes: int
    allocated_bytes: int
    garbage_bytes: int
    free_bytes: int
    reserve_bytes: int

    @property
    def used_bytes(self) -> int:
        """Of records that are needed, and what is about to be filled."""
        return self.allocated_bytes - self.garbage_bytes

    @property
    def left_bytes(self) -> int:
        """What can be stored once the garbage is gone."""
        return self.free_bytes + self.garbage_bytes


class Pool:
    """Segments of SEGMENT_BYTES up to `limit_bytes`. `view` is the whole pool, for reading records."""

    def __init__(self, home: Home, limit_bytes: int, tables: Tables | None = None) -> None:
        """Open the pool in `home`, and bind it to `tables`, those of the store."""
        check_limit(limit_bytes)
        self._tables = tables or Tables()
        self._place = home.describe()
        self.pieces = Pieces(home)
        self.arrivals = Arrivals(home)
        self._fd = home.open("pool")
        self._regions: list[Region] = []
        self.limit_bytes = limit_bytes
        self._lent_bytes = 0
        self.found_segments = os.fstat(self._fd).st_size // SEGMENT_BYTES
        """Segments of the file that was there; no record lies beyond."""
        count = max(limit_bytes // SEGMENT_BYTES, self.found_segments)
        if fcntl.fcntl(self._fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:  # to look at only (home.CopiedHome)
            count = max(self.found_segments, 1)
            self._show(_read_only_map(self._fd, count * SEGMENT_BYTES, self._place))
        else:
            self._show(self._extended(count * SEGMENT_BYTES))
        self.segments = Segments(count)
        self._free = array("I", range(count - 1, -1, -1))
        self.epochs = Epochs()
        """Whoever reads records without the store lock is inside."""
        self.settle_lanes: Callable[[], None] = _no_lanes
        """Waits until each lane was outside once (plane/tables/volumes.pyi)."""
        self._retired: deque[tuple[int, int]] = deque()  # (segment, epoch): empty, but somebody may look at it
        self.log = Log(self._fd)
        self._bind_log()
        self.mended = 0
        """Changes of records that stay where they are: those that undo damage."""

    def set_limit(self, limit_bytes: int) -> None:
        """Change the limit. Raises InputError for one below what is stored, or out of range. `view` gets longer."""
        check_limit(limit_bytes)
        least_bytes = (self.log.allocated_segments + COMPACTION_RESERVE_SEGMENTS) * SEGMENT_BYTES
        if limit_bytes < min(least_bytes, self.limit_bytes):
            raise InputError(
                f"--pool-limit {limit_bytes >> 20} MiB is less than {least_bytes >> 20} MiB, which is what the pool "
                f"holds and {COMPACTION_RESERVE_SEGMENTS} MiB to compact with; free memory first, or set a larger one"
            )
        self._grow((limit_bytes + self._lent_bytes) // SEGMENT_BYTES)
        self.limit_bytes = limit_bytes
        self._bind_log()

    def lend(self, size_bytes: int) -> None:
        """Allow so much above the limit, until the next call: room that is as good as free. `view` may get longer."""
        self._grow((self.limit_bytes + size_bytes) // SEGMENT_BYTES)
        self._lent_bytes = size_bytes
        self._bind_log()

    def _bind_log(self) -> None:
        self.log.bind(self.segments.live_bytes, self.segments.generation)
        self.log.most_segments = (self.limit_bytes + self._lent_bytes) // SEGMENT_BYTES

    def _grow(self, count: int) -> None:
        before = self.segments.count
        if count <= before:
            return
        free = array("I", range(count - 1, before - 1, -1)) + self._free
        self._show(self._extended(count * SEGMENT_BYTES))
        self.segments.grow(count)
        self.log.bind(self.segments.live_bytes, self.segments.generation)  # or it would count in the old columns
        self._free = free

    def _extended(self, size_bytes: int) -> Region:
        os.ftruncate(self._fd, size_bytes)
        reserved_bytes = max(LEAST_POOL_BYTES, size_bytes, min(POOL_FACTOR * size_bytes, MAXIMUM_LIMIT_BYTES))
        return extend(self._regions, self._fd, size_bytes, reserved_bytes, self._place)

    def _show(self, mapping: Region | mmap.mmap) -> None:
        self.view = memoryview(mapping)
        self._tables.bind_pool(self.view)

    @property
    def now(self) -> int:
        """A clock that ticks when a segment is full: the generation of the head."""
        return self.log.filled

    @property
    def allocated_segments(self) -> int:
        """Segments that have memory."""
        return self.log.allocated_segments

    @property
    def head(self) -> int:
        """The segment to which records are appended; -1 for none."""
        return self.log.head

    def places(self, *, found: bool = False) -> Places:
        """Where blocks can be; with `found` only what was there when the state was opened."""
        return Places(self.found_segments if found else self.segments.count, self.pieces.lengths(), self.arrivals.count)

    def _most_segments(self) -> int:
        """How many may be allocated. What was lent and is wanted back may still be in use: there is no room for
        anything new then, but compaction can go on."""
        most, allocated = self.log.most_segments, self.log.allocated_segments
        return most if allocated <= most else allocated + COMPACTION_RESERVE_SEGMENTS

    def adopt(self, where: U64s) -> None:
        """At start on existing state: learn from the rows' words which segments are in use; free the others."""
        live_bytes, piece_bytes = self.segments.live_bytes, self.pieces.live_bytes
        share(lambda first, end: count_records(where, first, end, live_bytes, piece_bytes), len(where))
        self._bind_log()
        self.pieces.adopt()
        self._free, unused = list_unused(live_bytes, self.segments.has_memory)
        self.log.allocated_segments = self.segments.count - len(self._free)
        for first, end in unused:
            punch(self._fd, first * SEGMENT_BYTES, (end - first) * SEGMENT_BYTES)

    @property
    def allocated_bytes(self) -> int:
        """What the host pays for the pool."""
        return self.allocated_segments * SEGMENT_BYTES

    @property
    def garbage_bytes(self) -> int:
        """Bytes in full segments that no row points at."""
        unused_bytes = self.log.head_end - self.log.tail + (SEGMENT_BYTES if self.log.spare >= 0 else 0)
        return self.allocated_bytes - self.live_bytes - unused_bytes

    @property
    def live_bytes(self) -> int:
        """Bytes of records that rows point at."""
        return self.log.total_live_bytes

    @property
    def free_bytes(self) -> int:
        """What can still be appended before the limit, not counting garbage."""
        segments = self.limit_bytes // SEGMENT_BYTES - self.allocated_segments - COMPACTION_RESERVE_SEGMENTS
        return max(segments + (self.log.spare >= 0), 0) * SEGMENT_BYTES + self.log.head_end - self.log.tail

    def figures(self) -> PoolFigures:
        """How full it is."""
        reserve_bytes = COMPACTION_RESERVE_SEGMENTS * SEGMENT_BYTES
        return PoolFigures(self.limit_bytes, self.allocated_bytes, self.garbage_bytes, self.free_bytes, reserve_bytes)

    def make_room_for(self, size_bytes: int, reserved_segments: int) -> None:
        """Have a spare segment where records of so many bytes do not fit in the head. Raises OutOfRoom."""
        self._reclaim()
        if not self.log.is_within_limit(reserved_segments):
            raise OutOfRoom(self._full())  # compaction is at work in its reserve, and gives it back when it is done
        if self.log.fits_head(size_bytes) or self.log.spare >= 0:
            return
        if self.log.allocated_segments + reserved_segments >= self._most_segments() or not self._free:
            raise OutOfRoom(self._full())
        spare = self._free.pop()
        self.segments.has_memory[spare] = 1
        self.log.set_spare(spare)

    def append_error(self) -> Exception:
        """Returns why records could not be written, for which there was room: OutOfRoom, or OSError."""
        error = self.log.error
        if not error:
            return OutOfRoom(self._full())
        if error == errno.ENOSPC:
            return OutOfRoom(no_room_under(self._place))
        return lack_of_room(OSError(error, os.strerror(error)), self._place)

    def take_back(self) -> None:
        """What compiled code has let go can be used again, and so can segments that nobody looks at any more."""
        if self._retired:
            self._reclaim()
        let_go = self.log.take_back()
        if let_go is None:
            return
        paged, emptied = let_go
        if paged:
            self.pieces.forget(paged)
        self.forgotten(emptied)

    def _full(self) -> str:
        return f"the pool is at its limit of {self.limit_bytes >> 20} MiB; delete memory files or raise --pool-limit"

    def forget(self, words: U64s) -> None:
        """The records at these words are garbage from now on. Segments without a live record are released, and pieces
        doomed."""
        self.take_back()
        for first in range(0, len(words), MOST_LET_GO):
            self.log.let_go(words[first : first + MOST_LET_GO])
            self.take_back()

    def forgotten(self, empty: Iterable[int]) -> None:
        """These segments had no live record any more: those that still have none are released, but for the head."""
        for segment in empty:
            if self.is_full(segment) and not self.segments.live_bytes[segment]:
                self.release_segment(segment)

    def mend(self, offset: int, byte: int) -> None:
        """This is what stood here before it was damaged."""
        self.view[offset] = byte
        self.mended += 1

    def release_segment(self, segment: int) -> None:
        """Give the memory of a segment that no row points into back to the host, once nobody can look at it."""
        assert self.segments.live_bytes[segment] == 0 and segment != self.log.head
        if self.segments.is_retired[segment]:
            return
        self.segments.is_retired[segment] = 1
        self._retired.append((segment, self.epochs.retire()))
        self._reclaim()

    def _reclaim(self) -> None:
        if self._retired and self.epochs.is_over(self._retired[0][1]):
            self.settle_lanes()
        while self._retired and self.epochs.is_over(self._retired[0][1]):
            segment, _ = self._retired.popleft()
            punch(self._fd, segment * SEGMENT_BYTES, SEGMENT_BYTES)
            self.segments.is_retired[segment] = self.segments.has_memory[segment] = 0
            self.log.allocated_segments -= 1
            self._free.append(segment)

    def is_allocated(self, segment: int) -> bool:
        """Has this segment memory?"""
        return bool(self.segments.has_memory[segment])

    def is_full(self, segment: int) -> bool:
        """Is this a segment with memory to which nothing will be appended any more?"""
        is_in_use = self.is_allocated(segment) and not self.segments.is_retired[segment]
        return is_in_use and segment not in (self.log.head, self.log.spare)

    def close(self) -> None:
        """Let go of the memory; the file stays."""
        self.view = memoryview(b"")
        self._tables.unbind()
        self._regions.clear()
        os.close(self._fd)
        self.pieces.close()
        self.arrivals.close()


def _read_only_map(fd: int, size_bytes: int, place: str) -> Region | mmap.mmap:
    """Returns the mapping of a file for reading; zeros in place of one that is too short, or not there at all."""
    if os.fstat(fd).st_size < size_bytes:
        return mmap.mmap(-1, size_bytes)
    region = map_region(fd, size_bytes, place, writable=False)
    region.extend(size_bytes)
    return region


def _no_lanes() -> None:
    pass
