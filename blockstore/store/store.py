"""The Store: volumes of blocks, kept once for all that have the same content. The face of this package.

Everything that changes a volume is a sequence of *steps*, a generator: each `next` does at most about a
millisecond of work, so that whoever owns the store can do something more urgent in between. A step yields True
when it went on, and False when the pool has no room for it: nothing of it was done, and it can be tried again
when room was made. It yields Blocks when it needs these and some of them are in the tier: it can be tried again when
they were fetched (fetch.py). `run` drives steps to their end in one go.

One thread at a time may use a Store; the daemon puts it behind one door (daemon/door.py).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, suppress

import numpy as np
import numpy.typing as npt

from blockstore.errors import CorruptBlock, InputError, OutOfRoom, StateError
from blockstore.store import superblock
from blockstore.store.arrivals import entries_of
from blockstore.store.content_index import ContentIndex
from blockstore.store.decode import Decoder, NotHere
from blockstore.store.densify import Densify
from blockstore.store.domains import Domains
from blockstore.store.fetch import Blocks, missing
from blockstore.store.geometry import (
    BLOCK_BYTES,
    BLOCK_SHIFT,
    DUE,
    FIRST_ROW,
    HOLE,
    ID_MASK,
    LOST_ENTRY,
    ZERO_ENTRY,
)
from blockstore.store.home import Home
from blockstore.store.ingest import SLICE_BLOCKS, Extent, Ingest
from blockstore.store.paging import Paging
from blockstore.store.pool import COMPACTION_RESERVE_SEGMENTS, Pool
from blockstore.store.references import acquire, release, rows_of
from blockstore.store.repair import Repair
from blockstore.store.rows import Rows
from blockstore.store.similarity_index import SimilarityIndex
from blockstore.store.soundness import entry_before, sound_entries
from blockstore.store.upkeep import Upkeep
from blockstore.store.volume import MAXIMUM_SIZE_BYTES, Volume, file_name, ids_of, is_volume, read_header

Outcome = bool | Blocks
Steps = Iterator[Outcome]

DISCARD_STEP_BLOCKS = 4096
"""Blocks made holes in one step: numpy does them at once, in about half a millisecond."""

RESERVED_FROM_FREEING_SEGMENTS = COMPACTION_RESERVE_SEGMENTS - 1
"""What frees memory may write the rest of a block that it cuts into compaction's reserve, so that it need not wait for
the room that it makes. One segment is left to compact with."""

CLONE_STEP_BLOCKS = 8192
"""Map entries copied in one step: about a quarter of a millisecond. Twice as many would be arrays of 128 KiB, for which
malloc(3) asks the kernel each time."""


class Store:
    """All volumes, and the tables and the pool that they share."""

    def __init__(
        self, home: Home, pool_limit_bytes: int, *, patching: bool = True, mend: bool = False, look: bool = False
    ) -> None:
        """Open the state in `home`, or start an empty one. Raises StateError, OutOfRoom, InputError.

        A state whose tables are damaged is refused, unchanged. With `mend` what one changed bit has done to a map or
        a row is undone, and blocks that cannot be found any more are LOST; `lost_blocks` says how many there are. With
        `look` the tables are left as they are, for `verify` only.
        """
        self._home = home
        existed = superblock.check_or_create(home)
        self.id = superblock.read_id(home)
        with ExitStack() as files:  # those of a state that is refused are not left open
            self.pool = files.enter_context(closing(Pool(home, pool_limit_bytes)))
            self.rows = files.enter_context(closing(Rows(home)))
            self.content = files.enter_context(closing(ContentIndex(home)))
            self.similarity = files.enter_context(closing(SimilarityIndex(home)))
            self.domains = files.enter_context(closing(Domains(home)))
            self.volumes: dict[int, Volume] = {}
            files.callback(self._close_volumes)
            self.decoder = Decoder(self.rows, self.pool)
            self._ingest = Ingest(self.rows, self.pool, self.content, self.similarity, self.decoder, patching=patching)
            self.upkeep = Upkeep(self.rows, self.pool)
            self.densify = Densify(self.rows, self.pool, self.decoder, self.domains, self.similarity)
            self.paging = Paging(self.rows, self.pool)
            self.slice_blocks = SLICE_BLOCKS
            """Blocks that a step of a write takes; less where somebody waits for its end, at a price for each block."""
            self.lost_blocks = 0
            self.made_due = 0
            """Blocks that were due when it was opened, and that became due since."""
            self.is_adopted = not look
            """Are counts and the pool's books those of the tables? Not with `look`, which takes them as they are."""
            if existed:
                self._find_volumes()
                if not look:
                    self._adopt(mend=mend)
            self._files = ExitStack()
            self._files.callback(home.close)
            self._files.enter_context(files.pop_all())

    def create_volume(self, number: int, domain_key: int) -> Volume:
        """An empty volume. `number` names it in the state; `domain_key` (not 0) says with whom it shares."""
        assert number not in self.volumes and domain_key
        domain = self.domains.enter(domain_key)
        try:
            volume = Volume(self._home, number, domain, create=True)
        except BaseException:
            self._home.remove(file_name(number))
            self.domains.leave(domain)
            raise
        self.volumes[number] = volume
        return volume

    def delete_steps(self, volume: Volume) -> Steps:
        """Free all blocks of the volume and forget it. From the first step on it may not be used otherwise."""
        volume.deleted = True
        yield from self._discard_blocks(volume, 0, volume.blocks)
        del self.volumes[volume.number]
        volume.close()
        self._home.remove(file_name(volume.number))
        self.domains.leave(volume.domain)

    def read(self, volume: Volume, offset: int, length: int) -> list[bytes | memoryview]:
        """Up to `length` bytes from `offset`, as pieces; shorter only at the end. Raises CorruptBlock, NotHere."""
        return self.decoder.read(volume, offset, length)

    def write_steps(
        self,
        volume: Volume,
        offset: int,
        data: memoryview | bytes,
        reserved_segments: int = COMPACTION_RESERVE_SEGMENTS,
    ) -> Steps:
        """Write at any offset; the volume grows as needed. `data` must stay as it is until the last step."""
        view, position, end = memoryview(data), offset, offset + len(data)
        check_size(end)
        yield from self._cut_paged_tail(volume)
        while position < end:
            block, skip = position >> BLOCK_SHIFT, position & (BLOCK_BYTES - 1)
            if skip or end - position < BLOCK_BYTES:
                stop = min((block + 1) << BLOCK_SHIFT, end)
            else:
                stop = position + min((end - position) >> BLOCK_SHIFT, self.slice_blocks) * BLOCK_BYTES
            piece = view[position - offset : stop - offset]
            while (outcome := self._write_slice(volume, position, piece, reserved_segments)) is not True:
                yield outcome or self.upkeep.step()  # compaction makes room, or there is none to be made
            position = stop
            yield True
        for _ in range(self.upkeep.owed_steps(len(data) >> BLOCK_SHIFT)):
            if not self.upkeep.step():
                break
            yield True
        volume.touch()

    def write_together(self, extents: Sequence[Extent]) -> bool:
        """Write whole blocks at several places of volumes of one domain, SLICE_BLOCKS of them at most, in one step,
        because a step costs ten times what a block costs, whatever it does. The volumes grow as needed.

        False when there is no room; then nothing was written, and `write_steps` of each can wait for some.
        """
        if any(extent.volume.has_paged_tail for extent in extents):
            return False
        for extent in extents:
            check_size((extent.first + extent.blocks) << BLOCK_SHIFT)
        try:
            for extent in extents:
                extent.volume.cover(extent.first + extent.blocks)
            self._ingest.write(extents[0].volume.domain, extents)
        except OutOfRoom:
            return False
        for extent in extents:
            end = (extent.first + extent.blocks) << BLOCK_SHIFT
            if end > extent.volume.size_bytes:
                extent.volume.set_size(end)
            extent.volume.touch()
        return True

    def make_due(self, volume: Volume, first: int, places: npt.NDArray[np.int64]) -> None:
        """Let blocks that were never written be due: those at these places among the arrivals, none where that is
        negative. The volume grows as needed. Raises InputError for blocks that were written, OutOfRoom."""
        entries = entries_of(places)
        entries[places < 0] = HOLE
        volume.cover(first + len(entries))
        if volume.entries(first, len(entries)).any():
            raise InputError("the file is in use already; pull into a new one")
        if entries.any():
            volume.prepare(first, len(entries))
            volume.replace(first, entries)
            self.made_due += int(np.count_nonzero(entries))
        end = (first + len(entries)) << BLOCK_SHIFT
        if end > volume.size_bytes:
            volume.set_size(end)

    def settle(self, volume: Volume, extents: Sequence[Extent]) -> bool:
        """Store the content of blocks that are due, SLICE_BLOCKS of them at most: to its readers nothing changes. False
        when there is no room; then nothing was done."""
        if not extents:
            return True
        dues = [(extent.first, volume.lookup(extent.first)) for extent in extents]
        try:
            self._ingest.write(volume.domain, extents)
        except OutOfRoom:
            return False
        for block, entry in dues:
            self.pool.arrivals.settled(entry, volume.lookup(block))
        return True

    def discard_steps(self, volume: Volume, offset: int, length: int) -> Steps:
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
            yield from self._discard_blocks(volume, first, last)  # first, for it makes room for the others
            yield from self._zero(volume, offset, min(first << BLOCK_SHIFT, end))
            yield from self._zero(volume, last << BLOCK_SHIFT, end)
        volume.touch()

    def resize_steps(self, volume: Volume, size_bytes: int) -> Steps:
        """Truncate down, freeing what is cut off, or up, adding a hole."""
        check_size(size_bytes)
        yield from self._cut_paged_tail(volume)
        if size_bytes < volume.size_bytes:
            yield from self.discard_steps(volume, size_bytes, volume.size_bytes - size_bytes)
        volume.set_size(size_bytes)
        volume.touch()

    def clone_steps(
        self, source: Volume, source_offset: int, target: Volume, target_offset: int, length: int
    ) -> Generator[Outcome, None, int]:
        """Copy a range between volumes of one domain (to itself if it does not overlap): block ids, no data.

        Parts that are not whole blocks on both sides are copied as bytes. Returns how many bytes were copied: fewer
        than `length` where the source ends before, or is cut off meanwhile.
        """
        assert source.domain is target.domain
        check_size(target_offset + length)
        yield from self._cut_paged_tail(source)
        yield from self._cut_paged_tail(target)
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
                yield from self._discard_blocks(target, to >> BLOCK_SHIFT, (to >> BLOCK_SHIFT) + 1)
                done += left
            else:
                size = min(left, SLICE_BLOCKS * BLOCK_BYTES)
                try:
                    data = b"".join(self.read(source, position, size))
                except NotHere:
                    yield blocks_of(source, position, size)
                    continue
                yield from self.write_steps(target, to, data)
                done += len(data)
        if done:
            target.touch()
        return done

    def seek(self, volume: Volume, offset: int, *, data: bool) -> int:
        """The next offset at or after `offset` inside data or a hole; the size if there is none (lseek(2))."""
        end = volume.blocks
        position = offset >> BLOCK_SHIFT
        for start, stop in volume.prepared(position, end):
            if not data and start > position:
                break
            for window in range(start, stop, CLONE_STEP_BLOCKS):
                entries = volume.map_array[window : min(window + CLONE_STEP_BLOCKS, stop)]
                found = np.flatnonzero((entries != HOLE) == data)
                if len(found):
                    block = window + int(found[0])
                    return min(max(block << BLOCK_SHIFT, offset), volume.size_bytes)
            position = stop
        if data:
            return volume.size_bytes
        return min(max(position << BLOCK_SHIFT, offset), volume.size_bytes)

    @property
    def table_bytes(self) -> int:
        """Memory of all tables: rows, both indexes, domains, volume maps."""
        return (
            self.rows.size_bytes
            + self.content.size_bytes
            + self.similarity.size_bytes
            + self.domains.size_bytes
            + self.pool.pieces.size_bytes
            + self.pool.arrivals.size_bytes
            + sum(volume.table_bytes for volume in self.volumes.values())
        )

    def close(self) -> None:
        """Let go of all files; idempotent. Nothing needs to be written: the state is its files."""
        self._files.close()

    def lend_room_of(self, volumes: Sequence[Volume]) -> None:
        """Let the pool go above its limit by what these volumes seem to take of it, because they will soon be gone."""
        touched = sum(volume.touched_blocks for volume in self.volumes.values()) if volumes else 0
        share = sum(volume.touched_blocks for volume in volumes) / touched if touched else 0.0
        self.pool.lend(int(self.pool.allocated_bytes * share))

    def breathe_with(self, breathe: Callable[[], None]) -> None:
        """Call this every tenth of a millisecond or so while a write is encoded: it may read, and nothing else."""
        self._ingest.breathe = breathe

    def _close_volumes(self) -> None:
        for volume in self.volumes.values():
            volume.close()

    def _write_slice(self, volume: Volume, position: int, piece: memoryview, reserved_segments: int) -> Outcome:
        """Write whole blocks, or a part of one; False when there is no room, and then nothing has changed, Blocks when
        the rest of one is in the tier."""
        block, skip, end = position >> BLOCK_SHIFT, position & (BLOCK_BYTES - 1), position + len(piece)
        if skip or len(piece) < BLOCK_BYTES:
            try:
                old = self.decoder.read_block(volume, block)
            except NotHere:
                return Blocks(volume, block, block + 1)
            piece = memoryview(b"".join((old[:skip], piece, old[skip + len(piece) :])))
        try:
            volume.cover(block + len(piece) // BLOCK_BYTES)
            self._ingest.write(volume.domain, [Extent(volume, block, piece)], reserved_segments)
        except OutOfRoom:
            return False
        if end > volume.size_bytes:
            volume.set_size(end)
        return True

    def _zero(self, volume: Volume, start: int, end: int) -> Steps:
        """Overwrite part of one block with zeros, unless it is zero anyway; an empty range is none."""
        if start < end and volume.lookup(start >> BLOCK_SHIFT) not in (HOLE, ZERO_ENTRY):
            yield from self.write_steps(volume, start, bytes(end - start), RESERVED_FROM_FREEING_SEGMENTS)

    def _discard_blocks(self, volume: Volume, first: int, end: int) -> Steps:
        for start, stop in volume.prepared(first, end):
            for window in range(start, stop, DISCARD_STEP_BLOCKS):
                holes = np.zeros(min(DISCARD_STEP_BLOCKS, stop - window), dtype=np.uint64)
                release(self.rows, self.pool, rows_of(self.rows, volume.replace(window, holes)))
                yield True
        volume.give_back_pages(first, end)

    def _clone_blocks(self, source: Volume, first: int, target: Volume, to: int, count: int) -> Steps:
        """Let blocks of the target be those of the source, which lie before its end; the target grows with them."""
        target.cover(to + count)
        if not source.entries(first, count).any():
            yield from self._discard_blocks(target, to, to + count)
        else:
            while not _prepared(target, to, count):
                yield False
            entries = source.entries(first, count)  # they may have changed while there was no room
            acquire(self.rows, rows_of(self.rows, entries))
            release(self.rows, self.pool, rows_of(self.rows, target.replace(to, entries)))
        if (to + count) << BLOCK_SHIFT > target.size_bytes:
            target.set_size((to + count) << BLOCK_SHIFT)
        yield True

    def _find_volumes(self) -> None:
        for name in self._home.names():
            if is_volume(name):
                header = read_header(self._home, name)
                if header is None:
                    self._home.remove(name)
                    continue
                number, domain_key = header
                if not self.domains.knows(domain_key):
                    raise self._damaged(f"the domain of volume {number} is not in `domains`")
                domain = self.domains.enter(domain_key)
                self.volumes[number] = Volume(self._home, number, domain, create=False)

    def _adopt(self, *, mend: bool) -> None:
        """Make what is rebuilt at start from what is kept: counts, free lists, the content index.

        See docs/decisions.md, "The truth is small"."""
        self.domains.forget_empty()
        counts, places = np.zeros(self.rows.capacity, dtype=np.int64), self.pool.places(found=True)
        for volume in self.volumes.values():
            volume.adopt()
            for start, end in volume.prepared(0, volume.blocks):
                entries = volume.map_array[start:end]
                sound = sound_entries(self.rows, places, entries)
                if not sound.all():
                    self._mend(volume, np.flatnonzero(~sound) + start, mend=mend)
                self.lost_blocks += int(np.count_nonzero(entries == LOST_ENTRY))
                counts += np.bincount(ids_of(volume.map_array[start:end]), minlength=self.rows.capacity)
        self.made_due = int(counts[DUE])
        self.rows.rebuild(counts)
        self.pool.adopt(self.rows.where.array)
        self.content.rebuild(self.rows)
        for volume in self.volumes.values():
            volume.has_paged_tail = not self._cut_tail(volume)

    def _mend(self, volume: Volume, blocks: npt.NDArray[np.int64], *, mend: bool) -> None:
        """Map entries that are damaged, or point at rows that are."""
        if not mend:
            raise self._damaged(f"{len(blocks)} blocks of {file_name(volume.number)} cannot be found any more")
        places = self.pool.places(found=True)
        repair = Repair(self.rows, self.pool, self.decoder, self.domains.seeds())
        for block in blocks.tolist():
            row = volume.lookup(block) & ID_MASK
            if FIRST_ROW <= row < self.rows.capacity:
                with suppress(NotHere):  # then its record says nothing about what is wrong
                    run(repair.steps(row))
            if not sound_entries(self.rows, places, volume.entries(block, 1)).all():
                before = entry_before(self.rows, places, volume.lookup(block), volume.domain.index)
                volume.map[block] = LOST_ENTRY if before is None else before

    def _cut_tail(self, volume: Volume) -> bool:
        """A write killed before it could store the new size has left bytes in the last block behind the old one.

        So has a clone, and that may be of a block that has to be fetched: returns False then, and nothing is cut.
        """
        block, used = volume.size_bytes >> BLOCK_SHIFT, volume.size_bytes & (BLOCK_BYTES - 1)
        if not used or volume.lookup(block) in (HOLE, ZERO_ENTRY):
            return True
        if missing(self.rows, self.decoder.cache, self.pool.arrivals, Blocks(volume, block, block + 1)):
            return False
        try:
            content = self.decoder.read_block(volume, block)
        except CorruptBlock:
            return True  # whoever reads it is told
        except NotHere:  # a block that is due was known to be here, and is no more: now it is missing
            return False
        if any(content[used:]):
            cut = memoryview(content[:used].ljust(BLOCK_BYTES, b"\0"))
            self._ingest.write(volume.domain, [Extent(volume, block, cut)], reserved_segments=0)  # the pool may be full
        return True

    def _cut_paged_tail(self, volume: Volume) -> Steps:
        """What could not be done at the start, before anything may grow the volume or take its last block."""
        while volume.has_paged_tail:
            tail = blocks_of(volume, volume.size_bytes, 1)
            if missing(self.rows, self.decoder.cache, self.pool.arrivals, tail):
                yield tail
                continue
            try:
                volume.has_paged_tail = not self._cut_tail(volume)
            except OutOfRoom:
                yield self.upkeep.step()

    def _damaged(self, what: str) -> StateError:
        return StateError(
            f"the state in {self._home.describe()} is damaged: {what}; `blockstore verify --state "
            f"{self._home.describe()}` tells more, and with --repair makes the rest usable"
        )


def run(steps: Steps, fetch: Callable[[Blocks], None] | None = None) -> None:
    """Take all the steps now. Raises OutOfRoom when one finds no room; the steps before it stay done.

    `fetch` gets the blocks that a step needs from the tier; without it they are an error, NotHere.
    """
    for went_on in steps:
        if isinstance(went_on, Blocks):
            if fetch is None:
                raise NotHere
            fetch(went_on)
            continue
        if not went_on:
            raise OutOfRoom(
                "there is no room: the pool is at its limit, or the file system under the state is full; "
                "delete or punch memory, or raise --pool-limit"
            )


def blocks_of(volume: Volume, offset: int, length: int) -> Blocks:
    """The blocks of a range of bytes."""
    return Blocks(volume, offset >> BLOCK_SHIFT, -(-(offset + length) // BLOCK_BYTES))


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
