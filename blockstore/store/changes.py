"""What changes volumes: writes, holes, sizes and clones, as steps (steps.py). The face of the store hands them out.

All is done with the store lock. Only a write takes it itself, if it is to, for no longer than each of its steps needs
it. Rows and map entries change in the plane (commit.pyi, ranges.pyi).
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import AbstractContextManager, nullcontext
from typing import Final

from blockstore.errors import InputError, OutOfRoom
from blockstore.plane.blocks import ranges
from blockstore.plane.blocks.commit import Commit
from blockstore.plane.sync.lock import StoreLock
from blockstore.plane.tables.volumes import VolumeTable
from blockstore.store.decode import Decoder
from blockstore.store.ingest import SLICE_BLOCKS, Extent, Ingest
from blockstore.store.moves.upkeep import Upkeep
from blockstore.store.recovery import Recovery
from blockstore.store.remote.wants import missing
from blockstore.store.state.geometry import BLOCK_BYTES, BLOCK_SHIFT, HOLE, ZERO_ENTRY
from blockstore.store.state.pool import COMPACTION_RESERVE_SEGMENTS, Pool
from blockstore.store.state.rows import Rows
from blockstore.store.steps import Blocks, NotHere, Outcome, Steps, Yielded, blocks_of
from blockstore.store.volume import MAXIMUM_SIZE_BYTES, Volume

DISCARD_STEP_BLOCKS: Final = 2048
"""Blocks made holes in one step: 0.2 ms where each of them frees its row, 0.06 ms where others have these, too. The
rows of 600,000 blocks lay in no order when that was measured, as do those of a VM that shares much."""

CLONE_STEP_BLOCKS: Final = 2048
"""Blocks cloned in one step: 0.07 ms into a new file, 0.27 ms in the place of blocks whose rows are freed."""

RESERVED_FROM_FREEING_SEGMENTS: Final = COMPACTION_RESERVE_SEGMENTS - 1
"""What frees memory may write the rest of a block that it cuts into compaction's reserve, so that it need not wait for
the room that it makes. One segment is left to compact with."""

_NO_LOCK: Final[AbstractContextManager[object]] = nullcontext()
"""For steps that have the lock already."""


class Changes:
    """Of one store: writes the maps of the volumes that it is given, and through Ingest all else."""

    def __init__(
        self,
        rows: Rows,
        pool: Pool,
        decoder: Decoder,
        ingest: Ingest,
        commit: Commit,
        upkeep: Upkeep,
        recovery: Recovery,
        lane_volumes: VolumeTable,
    ) -> None:
        self._rows = rows
        self._pool = pool
        self._decoder = decoder
        self._ingest = ingest
        self._commit = commit
        self._upkeep = upkeep
        self._recovery = recovery
        self._lane_volumes = lane_volumes

    def make_room(self) -> Outcome:
        """Takes a step of compaction, however little garbage there is. Returns WENT_ON when it did some, and NO_ROOM
        when there is nothing to compact."""
        return Outcome.WENT_ON if self._upkeep.step() else Outcome.NO_ROOM

    def write(
        self,
        volume: Volume,
        offset: int,
        data: memoryview | bytes,
        reserved_segments: int,
        lock: StoreLock | None,
    ) -> Steps:
        """Write at any offset, with this lock around what needs it; those who have it give None. The volume has no
        paged tail, and grows as needed."""
        view, position, end = memoryview(data), offset, offset + len(data)
        check_size(end)
        while position < end:
            block, skip = position >> BLOCK_SHIFT, position & (BLOCK_BYTES - 1)
            if skip or end - position < BLOCK_BYTES:
                stop = min((block + 1) << BLOCK_SHIFT, end)
            else:
                stop = position + min((end - position) >> BLOCK_SHIFT, SLICE_BLOCKS) * BLOCK_BYTES
            piece = view[position - offset : stop - offset]
            write = self._write_blocks if not (skip or len(piece) < BLOCK_BYTES) else self._write_part
            while (outcome := write(volume, position, piece, reserved_segments, lock)) is not Outcome.WENT_ON:
                if outcome is Outcome.NO_ROOM:
                    with lock or _NO_LOCK:
                        outcome = self.make_room()
                yield outcome
            position = stop
            yield Outcome.WENT_ON
        with lock or _NO_LOCK:
            owed_steps = self._upkeep.owed_steps(len(data) >> BLOCK_SHIFT)
        for _ in range(owed_steps):
            with lock or _NO_LOCK:
                outcome = self.make_room()
            if outcome is Outcome.NO_ROOM:
                break
            yield outcome
        if not volume.deleted:
            volume.touch()

    def discard(self, volume: Volume, offset: int, length: int) -> Steps:
        """Make the range read as zeros and free its whole blocks. The size stays."""
        end = min(offset + length, volume.size_bytes)
        if offset >= end:
            return
        first = -(-offset // BLOCK_BYTES)
        # What is behind the end reads as zeros anyway, so that a last block may go whole.
        last = end >> BLOCK_SHIFT if end < volume.size_bytes else -(-end // BLOCK_BYTES)
        if first > last:
            yield from self._zero(volume, offset, end)
        else:
            yield from self.discard_blocks(volume, first, last)  # first, for it makes room for the others
            yield from self._zero(volume, offset, min(first << BLOCK_SHIFT, end))
            yield from self._zero(volume, last << BLOCK_SHIFT, end)
        volume.touch()

    def resize(self, volume: Volume, size_bytes: int) -> Steps:
        """Truncate down, freeing what is cut off, or up, adding a hole."""
        check_size(size_bytes)
        yield from self.cut_paged_tail(volume)
        if size_bytes < volume.size_bytes:
            yield from self.discard(volume, size_bytes, volume.size_bytes - size_bytes)
        volume.set_size(size_bytes)
        volume.touch()

    def clone(
        self, source: Volume, source_offset: int, target: Volume, target_offset: int, length: int
    ) -> Generator[Yielded, None, int]:
        """Copy a range between volumes of one domain, as far as the source reaches; how many bytes were copied."""
        assert source.domain is target.domain
        check_size(target_offset + length)
        yield from self.cut_paged_tail(source)
        yield from self.cut_paged_tail(target)
        aligned = not (source_offset | target_offset) & (BLOCK_BYTES - 1)
        is_to_end = source_offset + length >= source.size_bytes  # now: a file that is cloned to its own end grows
        done = 0
        target.cover((target_offset + max(min(length, source.size_bytes - source_offset), 0)) >> BLOCK_SHIFT)
        while (left := min(length, source.size_bytes - source_offset) - done) > 0:
            position, to = source_offset + done, target_offset + done
            if aligned and left >= BLOCK_BYTES:
                blocks = min(left >> BLOCK_SHIFT, CLONE_STEP_BLOCKS)
                yield from self._clone_blocks(source, position >> BLOCK_SHIFT, target, to >> BLOCK_SHIFT, blocks)
                done += blocks << BLOCK_SHIFT
            elif (
                aligned and is_to_end and not source.lookup(position >> BLOCK_SHIFT) and to + left >= target.size_bytes
            ):
                target.set_size(to + left)
                yield from self.discard_blocks(target, to >> BLOCK_SHIFT, (to >> BLOCK_SHIFT) + 1)
                done += left
            else:
                size = min(left, SLICE_BLOCKS * BLOCK_BYTES)
                try:
                    data, _ = self._decoder.read_range(source, position, size)
                except NotHere:
                    yield blocks_of(source, position, size)
                    continue
                yield from self.write(target, to, data, COMPACTION_RESERVE_SEGMENTS, None)
                done += len(data)
        if done:
            target.touch()
        return done

    def discard_blocks(self, volume: Volume, first: int, end: int) -> Steps:
        """Let whole blocks be holes, and give back what memory of the map they leave empty."""
        for start, stop in volume.prepared(first, end):
            while start < stop:
                # Up to the end of a page of the map, whose memory goes in the same step: after it somebody may write.
                following = min((start // DISCARD_STEP_BLOCKS + 1) * DISCARD_STEP_BLOCKS, stop)
                self._pool.take_back()
                ranges.discard(self._commit, volume.block_map, start, following - start)
                self._pool.take_back()
                volume.give_back_pages(start, following, self._lane_volumes.settle)
                start = following
                yield Outcome.WENT_ON

    def cut_paged_tail(self, volume: Volume) -> Steps:
        """What could not be done at the start, before anything may grow the volume or take its last block."""
        while volume.has_paged_tail:
            tail = blocks_of(volume, volume.size_bytes, 1)
            if missing(self._rows, self._decoder.cache, self._pool.arrivals, tail):
                yield tail
                continue
            try:
                volume.has_paged_tail = not self._recovery.cut_tail(volume)
            except OutOfRoom:
                yield self.make_room()

    def _write_blocks(
        self, volume: Volume, position: int, piece: memoryview, reserved_segments: int, lock: StoreLock | None
    ) -> Outcome:
        """Writes whole blocks, and takes the lock for no longer than to publish them. Returns NO_ROOM when there is
        none, and then nothing has changed."""
        try:
            self._ingest.write_blocks(
                volume, position >> BLOCK_SHIFT, piece, position + len(piece), reserved_segments, lock
            )
        except OutOfRoom:
            return Outcome.NO_ROOM
        return Outcome.WENT_ON

    def _write_part(
        self, volume: Volume, position: int, piece: memoryview, reserved_segments: int, lock: StoreLock | None
    ) -> Yielded:
        """Writes a part of one block, all of it with the lock: nobody may write its rest meanwhile. Returns NO_ROOM
        when there is none, and Blocks when the rest is in the tier; then nothing has changed."""
        block, skip, end = position >> BLOCK_SHIFT, position & (BLOCK_BYTES - 1), position + len(piece)
        with lock or _NO_LOCK:
            try:
                old = self._decoder.read_block(volume, block)
                whole = memoryview(b"".join((old[:skip], piece, old[skip + len(piece) :])))
                volume.cover(block + 1)
                self._ingest.write(volume.domain, [Extent(volume, block, whole)], reserved_segments)
            except NotHere:
                return Blocks(volume, block, block + 1)
            except OutOfRoom:
                return Outcome.NO_ROOM
            if end > volume.size_bytes:
                volume.set_size(end)
        return Outcome.WENT_ON

    def _zero(self, volume: Volume, start: int, end: int) -> Steps:
        """Overwrite part of one block with zeros, unless it is zero anyway; an empty range is none."""
        if start < end and volume.lookup(start >> BLOCK_SHIFT) not in (HOLE, ZERO_ENTRY):
            yield from self.cut_paged_tail(volume)
            yield from self.write(volume, start, bytes(end - start), RESERVED_FROM_FREEING_SEGMENTS, None)

    def _clone_blocks(self, source: Volume, first: int, target: Volume, to: int, count: int) -> Steps:
        """Let blocks of the target be those of the source, which lie before its end; the target grows with them."""
        target.cover(to + count)
        if not source.has_data(first, count):
            yield from self.discard_blocks(target, to, to + count)
        else:
            while not _prepared(target, to, count):
                yield Outcome.NO_ROOM
            self._pool.take_back()
            ranges.clone(self._commit, source.block_map, first, target.block_map, to, count)
            self._pool.take_back()
        if (to + count) << BLOCK_SHIFT > target.size_bytes:
            target.set_size((to + count) << BLOCK_SHIFT)
        yield Outcome.WENT_ON


def check_size(size_bytes: int) -> None:
    """Raises InputError for a size that no volume can have."""
    if size_bytes > MAXIMUM_SIZE_BYTES:
        raise InputError(f"a volume of {size_bytes} bytes is too large; the most is {MAXIMUM_SIZE_BYTES} bytes (16T)")


def _prepared(volume: Volume, first: int, count: int) -> bool:
    try:
        volume.prepare(first, count)
    except OutOfRoom:
        return False
    return True
