"""The write path: whole blocks become rows, records and map entries, in two phases (docs/architecture.md).

*Encode* only reads, takes no lock, and may take its time: which contents are stored already, and what the others are
stored as (plane/blocks/encode.pyi). *Commit*, with the store lock, looks again whether what encode has found still
holds, makes room, appends the records and then publishes, which cannot fail (plane/blocks/commit.pyi): rows, indexes,
map entries; at last the old rows are released. So a process killed at any instruction leaves every block old or new.

The hot path of the store; its benchmark is `scripts/bench engine`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Final, NamedTuple

from blockstore.plane.blocks.commit import COMMITTED, NEEDS_PYTHON, STALE, Commit
from blockstore.plane.blocks.encode import Batch
from blockstore.plane.sync.lock import StoreLock
from blockstore.plane.tables.content_index import ContentIndex
from blockstore.plane.tables.similarity_index import SimilarityIndex
from blockstore.plane.tables.tables import Tables
from blockstore.store.state.geometry import BLOCK_BYTES
from blockstore.store.state.pool import COMPACTION_RESERVE_SEGMENTS, Pool
from blockstore.store.state.rows import MAXIMUM_DEPENDENTS, Rows
from blockstore.store.volume import Domain, Volume

SLICE_BLOCKS: Final = 16
"""Blocks that a step of a write takes: about 0.15 ms, for which whoever asks the same thread for something waits."""

BATCH_BLOCKS: Final = 128
"""Blocks that are encoded and committed together at most, by those for whom nobody waits."""

RAW_FROM_BYTES: Final = 3968
"""A block that LZ4 does not bring below this is stored raw: 3 % saved is not worth a decode at each read."""

PATCH_FROM_BYTES: Final = 1024
"""A block that compresses below this is neither worth a patch nor good as a reference: these are a sixth of the
patches and a thirtieth of what patches save."""

LONE_HINT_FROM_BYTES: Final = 2048
"""A candidate that only one feature hints at is tried for blocks that compress to no less than this. Below, a try
saves some 150 bytes and costs as much as compressing two blocks."""

PATCH_GAIN_BYTES: Final = 64
"""What a patch must save over the compressed block. It stands for the reference: its row stays as long as the
patch does, and each read decodes it as well."""


_NO_LOCK: Final[AbstractContextManager[object]] = nullcontext()


class Extent(NamedTuple):
    """Whole blocks to be written to a volume, from block `first` on."""

    volume: Volume
    first: int
    data: memoryview

    @property
    def blocks(self) -> int:
        return len(self.data) // BLOCK_BYTES


class Ingest:
    """Writes rows, pool, both indexes and the maps of the volumes it is given."""

    def __init__(
        self,
        rows: Rows,
        pool: Pool,
        content: ContentIndex,
        similarity: SimilarityIndex,
        tables: Tables,
        commit: Commit,
        *,
        patching: bool,
    ) -> None:
        self._rows = rows
        self._pool = pool
        self._content = content
        self._similarity = similarity
        self._tables = tables
        self._commit = commit
        self._patching = patching
        self._idle: list[Batch] = []

    def write(
        self, domain: Domain, extents: Sequence[Extent], reserved_segments: int = COMPACTION_RESERVE_SEGMENTS
    ) -> None:
        """Store extents of volumes of one domain, together at most BATCH_BLOCKS, which the volumes' maps cover. Where
        two overlap the later one counts. To be called with the store lock.

        Raises OutOfRoom, and then nothing has changed.
        """
        batch = self.encode(domain, [extent.data for extent in extents])
        try:
            self.commit(batch, extents, reserved_segments)
        finally:
            self.give_back(batch)

    def encode(self, domain: Domain, pieces: Sequence[memoryview]) -> Batch:
        """Encodes whole blocks, together at most BATCH_BLOCKS, without a lock. The batch is to be given back."""
        batch = self._load(domain, pieces)
        batch.encode()
        return batch

    def write_blocks(
        self,
        volume: Volume,
        first: int,
        data: memoryview,
        end_bytes: int,
        reserved_segments: int,
        lock: StoreLock | None,
    ) -> None:
        """Writes whole blocks, at most BATCH_BLOCKS, from block `first` on; the volume's size becomes `end_bytes` if it
        is less. Takes the lock for no longer than to publish them; those who have it give None. What is written to a
        volume that is deleted meanwhile is dropped.

        Raises OutOfRoom, and then nothing has changed.
        """
        batch = self._load(volume.domain, (data,))
        try:
            outcome = self._commit.write(batch, volume.block_map, first, end_bytes, reserved_segments, lock)
            if outcome == NEEDS_PYTHON:
                with lock or _NO_LOCK:
                    if not volume.deleted:
                        self.commit_write(batch, Extent(volume, first, data), end_bytes, reserved_segments)
            elif self._pool.log.has_let_go:
                with lock or _NO_LOCK:
                    self._pool.take_back()
        finally:
            self.give_back(batch)

    def commit_write(self, batch: Batch, extent: Extent, end_bytes: int, reserved_segments: int) -> None:
        """Publishes a batch as this extent of a volume, whose size becomes `end_bytes` if it is less; with the store
        lock. Makes the room that is lacking. Raises OutOfRoom, and then nothing has changed."""
        extent.volume.cover(extent.first + batch.blocks)
        self.commit(batch, [extent], reserved_segments)
        if end_bytes > extent.volume.size_bytes:
            extent.volume.set_size(end_bytes)

    def _load(self, domain: Domain, pieces: Sequence[memoryview]) -> Batch:
        try:
            batch = self._idle.pop()
        except IndexError:  # each is with another thread
            batch = self.new_batch()
        batch.load(pieces, domain.index, domain.seed, domain.zero_digest, domain.multipliers)
        return batch

    def commit(
        self, batch: Batch, extents: Sequence[Extent], reserved_segments: int = COMPACTION_RESERVE_SEGMENTS
    ) -> None:
        """Publishes a batch as these extents, which volumes of its domain cover; with the store lock.

        Raises OutOfRoom, and then nothing has changed.
        """
        targets = [(extent.volume.block_map, extent.first, extent.blocks) for extent in extents]
        outcome = self._commit.commit(batch, targets, reserved_segments)
        if outcome == STALE:
            batch.encode_again()  # nothing can change now
            outcome = self._commit.commit(batch, targets, reserved_segments)
        if outcome == NEEDS_PYTHON:
            self._reserve(batch, extents, reserved_segments)
            outcome = self._commit.commit(batch, targets, reserved_segments, is_reserved=True)
        if outcome != COMMITTED:
            raise self._pool.append_error()
        self._pool.take_back()

    def _reserve(self, batch: Batch, extents: Sequence[Extent], reserved_segments: int) -> None:
        """Make room for all that the batch needs. Raises OutOfRoom."""
        self._pool.take_back()
        for extent in extents:
            extent.volume.prepare(extent.first, extent.blocks)
        if batch.contents:
            live = self._rows.live
            self._rows.reserve(batch.contents)
            self._content.reserve(batch.contents, live)
            self._similarity.reserve(batch.featured, live)
            self._pool.make_room_for(batch.record_bytes, reserved_segments)

    def give_back(self, batch: Batch) -> None:
        """The batch is done, or given up."""
        batch.clear()
        self._idle.append(batch)

    def new_batch(self, most_blocks: int = BATCH_BLOCKS) -> Batch:
        """Returns a batch of so many blocks at most, for a thread of its own."""
        return Batch(
            most_blocks,
            self._tables,
            self._content,
            self._similarity,
            self._pool.epochs,
            raw_from_bytes=RAW_FROM_BYTES,
            patch_from_bytes=PATCH_FROM_BYTES,
            lone_hint_from_bytes=LONE_HINT_FROM_BYTES,
            patch_gain_bytes=PATCH_GAIN_BYTES,
            most_dependents=MAXIMUM_DEPENDENTS,
            patching=self._patching,
        )
