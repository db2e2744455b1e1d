"""The pool: one file of segments, into which records are appended.

Records are appended to the *head* segment with write(2) and read through one mapping of the whole, sparse file,
of which only what was written is ever touched. A segment's memory goes back to the host when no row points into it
any more. A record never changes: what is overwritten or freed leaves *garbage* behind, which compaction
(upkeep.py) turns into free segments.

Records may be in a tier instead, in *pieces* (pieces.py); words of rows that say so are PAGED. What is still at another
host stands in `arrivals`.

Written by: ingest (append), upkeep (append, release_segment), densify and paging (append, forget), release (forget),
repair (mend). Nobody else has a method for it.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from array import array
from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from blockstore.errors import InputError, OutOfRoom
from blockstore.store.arrivals import Arrivals
from blockstore.store.codec import Buffer
from blockstore.store.geometry import PAGED, SEGMENT_BYTES, WHERE_SEGMENT_SHIFT
from blockstore.store.home import Home, lack_of_room, no_room_under, punch
from blockstore.store.pieces import Pieces
from blockstore.store.pool_limit import check_limit

COMPACTION_RESERVE_SEGMENTS: Final = 2
"""Kept free of new records, so that compaction can always move the live records of one segment somewhere."""

_PAGED: Final = np.uint64(PAGED)


class Places(NamedTuple):
    """Where blocks can be: in this many segments, in pieces of these sizes in bytes, among so many arrivals."""

    segments: int
    piece_lengths: npt.NDArray[np.int64]
    arrivals: int


class Pool:
    """Segments of SEGMENT_BYTES up to `limit_bytes`. `view` is the whole pool, for reading records."""

    def __init__(self, home: Home, limit_bytes: int) -> None:
        check_limit(limit_bytes)
        self._place = home.describe()
        self.pieces = Pieces(home)
        self.arrivals = Arrivals(home)
        self._fd = home.open("pool")
        self.limit_bytes = limit_bytes
        self._lent_bytes = 0
        self.found_segments = os.fstat(self._fd).st_size // SEGMENT_BYTES
        """Segments of the file that was there; no record lies beyond."""
        self.segments = max(limit_bytes // SEGMENT_BYTES, self.found_segments)
        if fcntl.fcntl(self._fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:  # to look at only (home.CopiedHome)
            self.segments = max(self.found_segments, 1)
            self._mapping = _read_only_map(self._fd, self.segments * SEGMENT_BYTES)
        else:
            os.ftruncate(self._fd, self.segments * SEGMENT_BYTES)
            self._mapping = mmap.mmap(self._fd, self.segments * SEGMENT_BYTES)
        self.view = memoryview(self._mapping)
        self.live_bytes = np.zeros(self.segments, dtype=np.int64)
        self.generation = np.zeros(self.segments, dtype=np.int64)
        """Another number for a segment each time that it is filled anew; 0 for those that were found."""
        self._allocated = bytearray(self.segments)
        self._free = array("I", range(self.segments - 1, -1, -1))
        self.allocated_segments = 0
        self.head = -1  # records are appended to it, from `tail` to `head_end`
        self.spare = -1  # taken from the free ones, becomes the head when that is full
        self.tail = 0
        self.head_end = 0
        self._heads = 0
        self.mended = 0
        """Changes of records that stay where they are: those that undo damage."""

    def set_limit(self, limit_bytes: int) -> None:
        """Change the limit. Raises InputError for one below what is stored, or out of range; replaces `view`."""
        check_limit(limit_bytes)
        least_bytes = (self.allocated_segments + COMPACTION_RESERVE_SEGMENTS) * SEGMENT_BYTES
        if limit_bytes < min(least_bytes, self.limit_bytes):
            raise InputError(
                f"--pool-limit {limit_bytes >> 20} MiB is less than {least_bytes >> 20} MiB, which is what the pool "
                f"holds and {COMPACTION_RESERVE_SEGMENTS} MiB to compact with; free memory first, or set a larger one"
            )
        self._grow((limit_bytes + self._lent_bytes) // SEGMENT_BYTES)
        self.limit_bytes = limit_bytes

    def lend(self, size_bytes: int) -> None:
        """Allow so much above the limit, until the next call: room that is as good as free. May replace `view`."""
        self._grow((self.limit_bytes + size_bytes) // SEGMENT_BYTES)
        self._lent_bytes = size_bytes

    def _grow(self, segments: int) -> None:
        if segments <= self.segments:
            return
        os.ftruncate(self._fd, segments * SEGMENT_BYTES)
        self._mapping = mmap.mmap(self._fd, segments * SEGMENT_BYTES)
        self.view = memoryview(self._mapping)
        self.live_bytes = np.concatenate((self.live_bytes, np.zeros(segments - self.segments, dtype=np.int64)))
        self.generation = np.concatenate((self.generation, np.zeros(segments - self.segments, dtype=np.int64)))
        self._allocated.extend(bytes(segments - self.segments))
        self._free = array("I", range(segments - 1, self.segments - 1, -1)) + self._free
        self.segments = segments

    @property
    def now(self) -> int:
        """A clock that ticks when a segment is full: the generation of the head."""
        return self._heads

    def places(self, *, found: bool = False) -> Places:
        """Where records can be; with `found` only what was there when the state was opened."""
        return Places(self.found_segments if found else self.segments, self.pieces.lengths(), self.arrivals.count)

    def _most_segments(self) -> int:
        """How many may be allocated. What was lent and is wanted back may still be in use: there is no room for
        anything new then, but compaction can go on."""
        most = (self.limit_bytes + self._lent_bytes) // SEGMENT_BYTES
        return most if self.allocated_segments <= most else self.allocated_segments + COMPACTION_RESERVE_SEGMENTS

    def adopt(self, where: npt.NDArray[np.uint64]) -> None:
        """At start on existing state: learn from the rows' words which segments are in use; free the others."""
        self.pieces.adopt(where[where >= _PAGED])
        live = where[(where != 0) & (where < _PAGED)]
        segments = (live >> np.uint64(WHERE_SEGMENT_SHIFT)).astype(np.int64)
        sizes = (live >> np.uint64(3) & np.uint64(0x1FFF)).astype(np.int64)
        np.add.at(self.live_bytes, segments, sizes)
        used = self.live_bytes > 0
        for segment in range(self.segments):
            self._allocated[segment] = bool(used[segment])
        self.allocated_segments = int(used.sum())
        self._free = array("I", np.flatnonzero(~used)[::-1].astype(np.uint32).tobytes())
        for start, end in _runs(np.flatnonzero(~used)):
            punch(self._fd, start * SEGMENT_BYTES, (end - start) * SEGMENT_BYTES)

    @property
    def allocated_bytes(self) -> int:
        """What the host pays for the pool."""
        return self.allocated_segments * SEGMENT_BYTES

    @property
    def garbage_bytes(self) -> int:
        """Bytes in full segments that no row points at."""
        unused_bytes = self.head_end - self.tail + (SEGMENT_BYTES if self.spare >= 0 else 0)
        return self.allocated_bytes - int(self.live_bytes.sum()) - unused_bytes

    @property
    def free_bytes(self) -> int:
        """What can still be appended before the limit, not counting garbage."""
        segments = self.limit_bytes // SEGMENT_BYTES - self.allocated_segments - COMPACTION_RESERVE_SEGMENTS
        return max(segments + (self.spare >= 0), 0) * SEGMENT_BYTES + self.head_end - self.tail

    def append(
        self,
        records: Sequence[Buffer],
        sizes: npt.NDArray[np.int64],
        reserved_segments: int = COMPACTION_RESERVE_SEGMENTS,
    ) -> npt.NDArray[np.int64]:
        """Store records of at most a segment together; their offsets. None is split across segments.

        Raises OutOfRoom, and then nothing is stored: the limit is reached, or the file system under the state is full.
        """
        if self.allocated_segments + reserved_segments > self._most_segments():
            raise OutOfRoom(self._full())  # compaction is at work in its reserve, and gives it back when it is done
        ends = np.cumsum(sizes)
        total = int(ends[-1])
        offsets = ends - sizes + self.tail
        if self.tail + total <= self.head_end:
            self._fill(records, total)
            return offsets
        self._find_spare(reserved_segments)
        fitting = int(np.searchsorted(ends, self.head_end - self.tail, side="right"))
        head_bytes = int(ends[fitting - 1]) if fitting else 0
        if fitting:
            self._fill(records[:fitting], head_bytes)
        old_head, old_tail, old_end = self.head, self.tail, self.head_end
        self._start_spare()
        offsets[fitting:] += self.tail - old_tail
        try:
            self._fill(records[fitting:], total - head_bytes)
        except OutOfRoom:
            self.spare, self.head, self.tail, self.head_end = self.head, old_head, old_tail, old_end
            self.live_bytes[old_head] -= head_bytes
            raise
        if old_head >= 0 and not self.live_bytes[old_head]:
            self.release_segment(old_head)
        return offsets

    def _fill(self, records: Sequence[Buffer], size_bytes: int) -> None:
        # A write(2) gets fresh pages at half the cost of storing into the mapping, and says so when there are none.
        try:
            written = os.pwritev(self._fd, records, self.tail)
        except OSError as error:
            raise lack_of_room(error, self._place) from None
        if written != size_bytes:
            raise OutOfRoom(no_room_under(self._place))
        self.live_bytes[self.head] += size_bytes
        self.tail += size_bytes

    def _find_spare(self, reserved_segments: int) -> None:
        if self.spare >= 0:
            return
        if self.allocated_segments + reserved_segments >= self._most_segments() or not self._free:
            raise OutOfRoom(self._full())
        self.spare = self._free.pop()
        self._allocated[self.spare] = 1
        self.allocated_segments += 1

    def _full(self) -> str:
        return f"the pool is at its limit of {self.limit_bytes >> 20} MiB; delete memory files or raise --pool-limit"

    def _start_spare(self) -> None:
        self.head, self.spare = self.spare, -1
        self._heads += 1
        self.generation[self.head] = self._heads
        self.tail = self.head * SEGMENT_BYTES
        self.head_end = self.tail + SEGMENT_BYTES

    def forget(self, where: npt.NDArray[np.uint64]) -> None:
        """The records at these words are garbage from now on. Segments without a live record are released, and pieces
        doomed."""
        paged = where >= _PAGED
        if paged.any():
            self.pieces.forget(where[paged])
            where = where[~paged]
        segments = (where >> np.uint64(WHERE_SEGMENT_SHIFT)).astype(np.int64)
        sizes = (where >> np.uint64(3) & np.uint64(0x1FFF)).astype(np.int64)
        np.subtract.at(self.live_bytes, segments, sizes)
        for segment in np.unique(segments[self.live_bytes[segments] == 0]).tolist():
            if segment != self.head:
                self.release_segment(segment)

    def mend(self, offset: int, byte: int) -> None:
        """This is what stood here before it was damaged."""
        self.view[offset] = byte
        self.mended += 1

    def release_segment(self, segment: int) -> None:
        """Give the memory of a segment that no row points into back to the host."""
        assert self.live_bytes[segment] == 0 and segment != self.head
        punch(self._fd, segment * SEGMENT_BYTES, SEGMENT_BYTES)
        self._allocated[segment] = 0
        self.allocated_segments -= 1
        self._free.append(segment)

    def is_allocated(self, segment: int) -> bool:
        """Has this segment memory?"""
        return bool(self._allocated[segment])

    def is_full(self, segment: int) -> bool:
        """Is this a segment with memory to which nothing will be appended any more?"""
        return self.is_allocated(segment) and segment not in (self.head, self.spare)

    def full_segments(self) -> npt.NDArray[np.bool_]:
        """`is_full` of each segment."""
        full = np.frombuffer(self._allocated, dtype=np.uint8).astype(np.bool_)
        for segment in (self.head, self.spare):
            if segment >= 0:
                full[segment] = False
        return full

    def emptiest(self, count: int) -> list[int]:
        """So many of the segments that are full, if there are, the emptiest first."""
        candidates = np.flatnonzero(self.full_segments())
        order = np.argsort(self.live_bytes[candidates], kind="stable")[:count]
        return candidates[order].tolist()  # type: ignore[no-any-return]

    def close(self) -> None:
        """Let go of the memory; the file stays."""
        self.view = memoryview(b"")
        os.close(self._fd)
        self.pieces.close()
        self.arrivals.close()


def _read_only_map(fd: int, length: int) -> mmap.mmap:
    """Of a file that may be too short: what is behind its end is never asked for, because no row may point there."""
    if os.fstat(fd).st_size < length:
        return mmap.mmap(-1, length)
    return mmap.mmap(fd, length, access=mmap.ACCESS_READ)


def _runs(numbers: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """[start, end) runs of consecutive numbers in an ascending array."""
    if not len(numbers):
        return []
    breaks = np.flatnonzero(np.diff(numbers) != 1)
    starts = np.concatenate(([0], breaks + 1))
    ends = np.concatenate((breaks, [len(numbers) - 1]))
    return [(int(numbers[start]), int(numbers[end]) + 1) for start, end in zip(starts, ends, strict=True)]
