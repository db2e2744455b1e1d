"""From a row back to its 4096 bytes, and from a volume to any range of its bytes.

What is read is checked against the row's digest: a record that does not decode to what was written raises CorruptBlock,
and no byte of it is returned. A record that is in the tier raises NotHere; so does a block that is still at another
host (DUE). plane/blocks/decode.pyx reads what is in the pool and undamaged. Only what it cannot read is looked at here:
what was fetched is decoded, and what is damaged is described.

A hot path; its benchmark is `scripts/bench engine`.
"""

from __future__ import annotations

from blockstore.errors import CorruptBlock
from blockstore.plane.blocks.decode import Reader
from blockstore.plane.codec.codec import DecodeError, digest
from blockstore.plane.codec.dictionary import Dictionary
from blockstore.plane.tables.tables import Tables
from blockstore.store.remote.arrivals import content_digest
from blockstore.store.remote.record_cache import RecordCache
from blockstore.store.state.dictionary_file import file_name
from blockstore.store.state.geometry import (
    BLOCK_BYTES,
    BLOCK_SHIFT,
    CHECK_SHIFT,
    DENSE_FIRST,
    DENSE_SECOND,
    DUE,
    ENCODING_MASK,
    ID_MASK,
    PAGED,
    PATCH_BITS,
    ZERO_BLOCK,
    ZERO_ENTRY,
)
from blockstore.store.state.location import offset_of, size_of, unpack_paged
from blockstore.store.state.pool import Pool
from blockstore.store.state.rows import Rows
from blockstore.store.steps import NotHere
from blockstore.store.volume import Volume


class Decoder:
    """Reads rows, the pool and `cache`, writes nothing. `tables` are those of the rows and the pool."""

    def __init__(self, rows: Rows, pool: Pool, tables: Tables, cache: RecordCache | None = None) -> None:
        self._rows = rows
        self._pool = pool
        self._tables = tables
        self.cache = cache or RecordCache(pool.pieces)
        self._reader = Reader(tables)

    def content(self, row: int) -> bytes:
        """The block of a live row, not checked against its digest: for comparing, and for references.

        Raises CorruptBlock, NotHere."""
        return self._reader.row(row) or self._fetched(row)

    def record(self, where: int) -> memoryview | bytes:
        """What the pool, or the cache, holds there. Raises NotHere, and DecodeError for a place that cannot be."""
        if where & PAGED:
            fetched = self.cache.get(where)
            if fetched is not None:
                return fetched
            if self.cache.generation(where) < 0:
                raise DecodeError(f"the tier has no piece {unpack_paged(where)[0]} for it")
            raise NotHere
        offset = offset_of(where)
        return self._pool.view[offset : offset + size_of(where)]

    def read_block(self, volume: Volume, number: int) -> bytes:
        """One whole block; the map must cover it. Raises CorruptBlock, NotHere."""
        entry = volume.lookup(number)
        if not entry or entry == ZERO_ENTRY:
            return ZERO_BLOCK
        return self.verified(entry, volume.domain.seed)

    def read_blocks(self, volume: Volume, first: int, count: int, buffer: bytearray, at: int) -> int:
        """Writes `count` whole blocks from block `first` on into the buffer, from byte `at` on. Returns how many of
        them were ever written (entries that are not HOLE). Raises CorruptBlock, NotHere."""
        reader, seed = self._reader, volume.domain.seed
        done = reader.read(volume.block_map, first, count, seed, buffer, at)
        written = reader.written
        while done < count:
            start = at + done * BLOCK_BYTES
            buffer[start : start + BLOCK_BYTES] = self._explained(volume.lookup(first + done), seed)
            done += 1
            done += reader.read(volume.block_map, first + done, count - done, seed, buffer, start + BLOCK_BYTES)
            written += 1 + reader.written
        return written

    def read_range(
        self, volume: Volume, offset: int, length: int, room_bytes: int = 0, buffer: bytearray | None = None
    ) -> tuple[memoryview, int]:
        """Returns up to `length` bytes from `offset`, fewer only at the end of the volume, and how many of the blocks
        were ever written. In front of the bytes are `room_bytes` more, to be overwritten. All of it lies in `buffer`,
        if that is large enough. Raises CorruptBlock, NotHere."""
        length = min(length, volume.size_bytes - offset)
        if length <= 0:
            return memoryview(bytearray(room_bytes)), 0
        first, skip = offset >> BLOCK_SHIFT, offset & (BLOCK_BYTES - 1)
        count = -(-(skip + length) // BLOCK_BYTES)
        size_bytes = room_bytes + count * BLOCK_BYTES
        if buffer is None or len(buffer) < size_bytes:
            buffer = bytearray(size_bytes)
        written = self.read_blocks(volume, first, count, buffer, room_bytes)
        return memoryview(buffer)[skip : skip + room_bytes + length], written

    def verified(self, entry: int, seed: int) -> bytes:
        """The block of a map entry that is neither HOLE nor ZERO. Raises CorruptBlock, NotHere."""
        return self._reader.entry(entry, seed) or self._explained(entry, seed)

    def _explained(self, entry: int, seed: int) -> bytes:
        """The same, for what the reader cannot read."""
        row = entry & ID_MASK
        if row == DUE:
            return self._due(entry, seed)
        block = self.content(row)
        found, wanted = digest(block, seed), self._rows.digest.items[row]
        if found == wanted and not (found ^ entry) >> CHECK_SHIFT:
            return block
        if (wanted ^ entry) >> CHECK_SHIFT:
            raise CorruptBlock(row, "it is not the one that the map entry was made for")
        raise CorruptBlock(row, "its content does not match its digest")

    def _fetched(self, row: int) -> bytes:
        """The block of a row whose record, or that of its reference, is not in the pool, or damaged."""
        rows = self._rows
        if row >= rows.capacity:
            raise CorruptBlock(row, "there is no such row")
        where = rows.where.items[row]
        reference = None
        if where & PATCH_BITS == PATCH_BITS:
            base = rows.reference.items[row]
            if base >= rows.capacity or rows.where.items[base] & PATCH_BITS == PATCH_BITS:
                raise CorruptBlock(row, f"its reference {base} is none")
            reference = self.content(base)
        try:
            dictionary = self._dictionary(row, where & ENCODING_MASK)
            return self._reader.codec.decode(self.record(where), where & ENCODING_MASK, reference, dictionary)
        except DecodeError as error:
            raise CorruptBlock(row, str(error)) from None

    def dictionary(self, domain: int, slot: int) -> Dictionary | None:
        """That of a domain (its index) in a slot; None if there is none, or it is damaged."""
        return self._tables.dictionary(domain, slot)

    def _dictionary(self, row: int, encoding: int) -> Dictionary | None:
        """What a record needs; None for an encoding that needs none. Raises CorruptBlock."""
        if encoding not in (DENSE_FIRST, DENSE_SECOND):
            return None
        domain, slot = self._rows.domain.items[row], encoding - DENSE_FIRST
        dictionary = self.dictionary(domain, slot)
        if dictionary is None:
            raise CorruptBlock(row, f"{file_name(domain, slot)}, with which it was encoded, is damaged or missing")
        return dictionary

    def _due(self, entry: int, seed: int) -> bytes:
        arrivals = self._pool.arrivals
        due = arrivals.due(entry)
        if due is None:
            raise CorruptBlock(DUE, "its map entry is damaged")
        content = arrivals.get(due.place)
        if content is None and (known := int(arrivals.known[due.place])):
            content = self._same(known, seed, due.digest)
            if content is None:
                arrivals.known[due.place] = 0
        if content is not None:
            return content
        if due.place in arrivals.lost:
            raise CorruptBlock(DUE, "the host that it was to come from has not got it, or something else in its place")
        raise NotHere

    def _same(self, entry: int, seed: int, wanted: bytes) -> bytes | None:
        """What an entry stands for, if that is what has this digest and is here."""
        try:
            content = self.verified(entry, seed)
        except (CorruptBlock, NotHere):
            return None
        return content if content_digest(content) == wanted else None
