"""The write path: a slice of whole blocks becomes rows, records and map entries (DESIGN.md section 4).

Order, so that a process killed at any instruction leaves every block old or new: record, row, map entry, and
only then the old row is released. A slice is small (SLICE_BLOCKS), because nothing else happens meanwhile.
The hot path of the store; its benchmark is `scripts/bench engine`.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from blockstore.errors import CorruptBlock
from blockstore.store.codec import compress, digest, make_patch
from blockstore.store.content_index import ContentIndex
from blockstore.store.decode import Decoder
from blockstore.store.features import features
from blockstore.store.geometry import (
    BLOCK_BYTES,
    COMPRESSED,
    ENCODING_MASK,
    FREE,
    OFFSET_SHIFT,
    PATCHED,
    RAW,
    SEGMENT_SHIFT,
    SIZE_SHIFT,
    ZERO,
    ZERO_BLOCK,
)
from blockstore.store.pool import Pool
from blockstore.store.references import release
from blockstore.store.rows import Rows
from blockstore.store.similarity_index import SimilarityIndex
from blockstore.store.volume import Domain, Volume

SLICE_BLOCKS: Final = 32
"""Blocks written in one go: about 0.4 ms, in which a fault of another VM waits."""

RAW_FROM_BYTES: Final = 3968
"""A block that LZ4 does not bring below this is stored raw: 3 % saved is not worth a decode at each read."""

PATCH_FROM_BYTES: Final = 256
"""A block that compresses below this is not worth a patch."""

PATCH_GAIN_BYTES: Final = 64
"""What a patch must save over the compressed block. It stands for the reference: its row stays as long as the
patch does, and each read decodes it as well."""


class Ingest:
    """Writes rows, pool, both indexes and the maps of the volumes it is given."""

    def __init__(
        self,
        rows: Rows,
        pool: Pool,
        content: ContentIndex,
        similarity: SimilarityIndex,
        decoder: Decoder,
        *,
        patching: bool,
    ) -> None:
        self._rows = rows
        self._pool = pool
        self._content = content
        self._similarity = similarity
        self._decoder = decoder
        self.patching = patching

    def reserve(self, volume: Volume, first: int, count: int) -> None:
        """Make sure that `write(volume, first, ...)` of `count` blocks cannot fail half-way. Raises OutOfRoom."""
        volume.prepare(first, count)
        self._rows.reserve(count)
        self._content.reserve(count, self._rows)
        if self.patching:
            self._similarity.reserve(self._rows.live + count)
        self._pool.reserve(count * BLOCK_BYTES)

    def write(self, volume: Volume, first: int, data: bytes) -> None:
        """Store the whole blocks in `data` (at most SLICE_BLOCKS) from block `first` on; `reserve` came before."""
        count = len(data) // BLOCK_BYTES
        old = volume.map_array[first : first + count].copy()
        ids = np.array(self._rows_for(volume.domain, data, count), dtype=np.uint32)
        volume.map_array[first : first + count] = ids
        if old.any():
            release(self._rows, self._pool, old)

    def _rows_for(self, domain: Domain, data: bytes, count: int) -> list[int]:
        """An id for each block, each counted once more: of a row that has the content, or of a new one."""
        ids = [ZERO] * count
        missing: list[tuple[int, int]] = []  # (place, digest) of contents that no row has
        repeats: list[tuple[int, int]] = []  # the same for contents that came earlier in this very slice
        pending: set[int] = set()
        find, counts, seed, index = self._find, self._rows.count.items, domain.seed, domain.index
        for place in range(count):
            block = data[place * BLOCK_BYTES : (place + 1) * BLOCK_BYTES]
            if block == ZERO_BLOCK:
                continue
            key = digest(block, seed)
            row = find(key, index, block)
            if row:
                counts[row] += 1
                ids[place] = row
            elif key in pending:
                repeats.append((place, key))
            else:
                pending.add(key)
                missing.append((place, key))
        if missing:
            self._encode_all(domain, data, missing, ids)
        for place, key in repeats:
            block = data[place * BLOCK_BYTES : (place + 1) * BLOCK_BYTES]
            row = find(key, index, block) or self._encode(domain, block, key, ())
            counts[row] += 1
            ids[place] = row
        return ids

    def _find(self, key: int, domain_index: int, block: bytes) -> int:
        """The row with this digest *and* these bytes in the domain, or 0."""
        slots = self._content.slots.items
        length = len(slots)
        slot = key % length
        row = slots[slot]
        if not row:
            return 0
        digests, domains, where = self._rows.digest.items, self._rows.domain.items, self._rows.where.items
        while row:
            if digests[row] == key and domains[row] == domain_index and where[row] and self._has(row, block):
                return row
            slot += 1
            if slot == length:
                slot = 0
            row = slots[slot]
        return 0

    def _encode_all(self, domain: Domain, data: bytes, missing: list[tuple[int, int]], ids: list[int]) -> None:
        """New rows for contents that are not stored yet."""
        counts = self._rows.count.items
        if not self.patching:
            for place, key in missing:
                block = data[place * BLOCK_BYTES : (place + 1) * BLOCK_BYTES]
                ids[place] = row = self._encode(domain, block, key, ())
                counts[row] += 1
            return
        fresh = (
            data
            if len(missing) * BLOCK_BYTES == len(data)
            else b"".join([data[place * BLOCK_BYTES : (place + 1) * BLOCK_BYTES] for place, _ in missing])
        )
        block_features = features(fresh, domain.multipliers)
        candidates = self._similarity.candidates(block_features, self._rows, domain.index).tolist()
        new_rows = []
        for (place, key), tried in zip(missing, candidates, strict=True):
            block = data[place * BLOCK_BYTES : (place + 1) * BLOCK_BYTES]
            ids[place] = row = self._encode(domain, block, key, tried)
            counts[row] += 1
            new_rows.append(row)
        rows = np.array(new_rows, dtype=np.uint32)
        encoding = self._rows.where.array[rows] & np.uint64(ENCODING_MASK)
        useful = encoding == COMPRESSED
        self._similarity.enter(block_features[useful], rows[useful])

    def _encode(self, domain: Domain, block: bytes, key: int, candidates: list[int] | tuple[()]) -> int:
        """A new row for the block, encoded the smallest way; its count is still 0."""
        record = compress(block)
        encoding, reference, size_bytes = COMPRESSED, 0, len(record)
        if size_bytes >= RAW_FROM_BYTES:
            record, encoding, size_bytes = block, RAW, BLOCK_BYTES
        if candidates and size_bytes > PATCH_FROM_BYTES:
            decode = self._decoder.content
            largest = size_bytes - PATCH_GAIN_BYTES
            for candidate in candidates:
                if not candidate:
                    break
                try:
                    reference_block = decode(candidate)
                except CorruptBlock:
                    continue
                patch = make_patch(block, reference_block)
                if len(patch) < largest:
                    record, encoding, reference, largest = patch, PATCHED, candidate, len(patch)
            size_bytes = len(record)
        rows, pool = self._rows, self._pool
        offset = pool.tail  # Pool.append, written out
        pool.tail = end = offset + size_bytes
        pool.view[offset:end] = record
        pool.live_items[offset >> SEGMENT_SHIFT] += size_bytes
        row = rows.take()
        assert rows.where.items[row] == FREE
        rows.digest.items[row] = key
        rows.reference.items[row] = reference
        rows.domain.items[row] = domain.index
        rows.where.items[row] = offset << OFFSET_SHIFT | size_bytes << SIZE_SHIFT | encoding
        if reference:
            rows.dependents.items[reference] += 1
        self._enter(key, row)
        return row

    def _has(self, row: int, block: bytes) -> bool:
        try:
            return self._decoder.content(row) == block
        except CorruptBlock:
            return False  # reported when somebody reads it; nothing new may be tied to it

    def _enter(self, key: int, row: int) -> None:
        slots = self._content.slots.items
        length = len(slots)
        slot = key % length
        while slots[slot]:
            slot += 1
            if slot == length:
                slot = 0
        slots[slot] = row
        self._content.used += 1
