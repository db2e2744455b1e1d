"""The pool: one file of segments, into which records are appended.

The whole file is mapped once, sparse; a segment is given memory before it becomes the *head* that records are
appended to, and its memory goes back to the host when no row points into it any more. A record never changes:
what is overwritten or freed leaves *garbage* behind, which compaction (upkeep.py) turns into free segments.

Written by: ingest (append), upkeep (append, release_segment), release (count). Nobody else has a method for it.
"""

from __future__ import annotations

import mmap
import os
from array import array
from typing import Final

import numpy as np
import numpy.typing as npt

from blockstore.errors import InputError, OutOfRoom
from blockstore.store.geometry import SEGMENT_BYTES, SEGMENT_SHIFT, WHERE_SEGMENT_SHIFT
from blockstore.store.home import MADV_REMOVE, Home, allocate

COMPACTION_RESERVE_SEGMENTS: Final = 2
"""Kept free of new records, so that compaction can always move the live records of one segment somewhere."""

MINIMUM_LIMIT_BYTES: Final = 8 * SEGMENT_BYTES
"""Below this the reserve and the head would be most of the pool."""


class Pool:
    """Segments of SEGMENT_BYTES up to `limit_bytes`. `view` is the whole pool, for reading records."""

    def __init__(self, home: Home, limit_bytes: int) -> None:
        if limit_bytes < MINIMUM_LIMIT_BYTES:
            raise InputError(
                f"a pool limit of {limit_bytes} bytes is too small; the least is {MINIMUM_LIMIT_BYTES} bytes (8M)"
            )
        self._place = home.describe()
        self._fd = home.open("pool")
        self.limit_bytes = limit_bytes
        self.segments = max(limit_bytes // SEGMENT_BYTES, os.fstat(self._fd).st_size // SEGMENT_BYTES)
        os.ftruncate(self._fd, self.segments * SEGMENT_BYTES)
        self._mapping = mmap.mmap(self._fd, self.segments * SEGMENT_BYTES)
        self.view = memoryview(self._mapping)
        self.live_bytes = np.zeros(self.segments, dtype=np.int64)
        self.live_items = memoryview(self.live_bytes)  # type: ignore[arg-type]
        self._allocated = bytearray(self.segments)
        self._free = array("I", range(self.segments - 1, -1, -1))
        self.allocated_segments = 0
        self.head = -1
        self.tail = 0
        self.head_end = 0

    def adopt(self, where: npt.NDArray[np.uint64]) -> None:
        """At start on existing state: learn from the rows' words which segments are in use; free the others."""
        live = where[where != 0]
        segments = (live >> np.uint64(WHERE_SEGMENT_SHIFT)).astype(np.int64)
        sizes = (live >> np.uint64(3) & np.uint64(0x1FFF)).astype(np.int64)
        np.add.at(self.live_bytes, segments, sizes)
        used = self.live_bytes > 0
        for segment in range(self.segments):
            self._allocated[segment] = bool(used[segment])
        self.allocated_segments = int(used.sum())
        self._free = array("I", np.flatnonzero(~used)[::-1].astype(np.uint32).tobytes())
        for start, end in _runs(np.flatnonzero(~used)):
            self._mapping.madvise(MADV_REMOVE, start * SEGMENT_BYTES, (end - start) * SEGMENT_BYTES)

    @property
    def allocated_bytes(self) -> int:
        """What the host pays for the pool."""
        return self.allocated_segments * SEGMENT_BYTES

    @property
    def garbage_bytes(self) -> int:
        """Bytes in full segments that no row points at."""
        unused_head_bytes = self.head_end - self.tail
        return self.allocated_bytes - int(self.live_bytes.sum()) - unused_head_bytes

    @property
    def free_bytes(self) -> int:
        """What can still be appended before the limit, not counting garbage."""
        segments = self.limit_bytes // SEGMENT_BYTES - self.allocated_segments - COMPACTION_RESERVE_SEGMENTS
        return max(segments, 0) * SEGMENT_BYTES + self.head_end - self.tail

    def reserve(self, size_bytes: int, reserved_segments: int = COMPACTION_RESERVE_SEGMENTS) -> None:
        """Make sure that `size_bytes` (at most half a segment) can be appended; else raises OutOfRoom."""
        if self.tail + size_bytes <= self.head_end:
            return
        if self.allocated_segments + reserved_segments >= self.limit_bytes // SEGMENT_BYTES or not self._free:
            raise OutOfRoom(
                f"the pool is at its limit of {self.limit_bytes >> 20} MiB; delete memory files or raise --pool-limit"
            )
        segment = self._free[-1]
        allocate(self._fd, segment * SEGMENT_BYTES, SEGMENT_BYTES, self._place)
        self._free.pop()
        self._allocated[segment] = 1
        self.allocated_segments += 1
        full, self.head = self.head, segment
        self.tail = segment * SEGMENT_BYTES
        self.head_end = self.tail + SEGMENT_BYTES
        if full >= 0 and not self.live_bytes[full]:
            self.release_segment(full)

    def append(self, record: bytes) -> int:
        """Store a record for which room was reserved; its offset. The hot path of ingest writes this out."""
        offset = self.tail
        self.tail = end = offset + len(record)
        self.view[offset:end] = record
        self.live_items[offset >> SEGMENT_SHIFT] += len(record)
        return offset

    def forget(self, where: npt.NDArray[np.uint64]) -> None:
        """The records at these words are garbage from now on. Segments without a live record are released."""
        segments = (where >> np.uint64(WHERE_SEGMENT_SHIFT)).astype(np.int64)
        sizes = (where >> np.uint64(3) & np.uint64(0x1FFF)).astype(np.int64)
        np.subtract.at(self.live_bytes, segments, sizes)
        for segment in np.unique(segments[self.live_bytes[segments] == 0]).tolist():
            if segment != self.head:
                self.release_segment(segment)

    def release_segment(self, segment: int) -> None:
        """Give the memory of a segment that no row points into back to the host."""
        assert self.live_bytes[segment] == 0 and segment != self.head
        self._mapping.madvise(MADV_REMOVE, segment * SEGMENT_BYTES, SEGMENT_BYTES)
        self._allocated[segment] = 0
        self.allocated_segments -= 1
        self._free.append(segment)

    def is_allocated(self, segment: int) -> bool:
        """Has this segment memory?"""
        return bool(self._allocated[segment])

    def emptiest(self) -> tuple[int, int]:
        """(segment, live_bytes) of the allocated segment with the least live bytes, the head aside; (-1, 0) if none."""
        allocated = np.frombuffer(self._allocated, dtype=np.uint8).astype(bool)
        if self.head >= 0:
            allocated[self.head] = False
        candidates = np.flatnonzero(allocated)
        if not len(candidates):
            return -1, 0
        segment = int(candidates[np.argmin(self.live_bytes[candidates])])
        return segment, int(self.live_bytes[segment])

    def close(self) -> None:
        """Let go of the memory; the file stays."""
        self.view = memoryview(b"")
        os.close(self._fd)


def _runs(numbers: npt.NDArray[np.int64]) -> list[tuple[int, int]]:
    """[start, end) runs of consecutive numbers in an ascending array."""
    if not len(numbers):
        return []
    breaks = np.flatnonzero(np.diff(numbers) != 1)
    starts = np.concatenate(([0], breaks + 1))
    ends = np.concatenate((breaks, [len(numbers) - 1]))
    return [(int(numbers[start]), int(numbers[end]) + 1) for start, end in zip(starts, ends, strict=True)]
