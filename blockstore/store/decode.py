"""From a row back to its 4096 bytes, and from a volume to any range of its bytes.

What is read is checked against the row's digest: a record that does not decode to what was written raises
CorruptBlock, and no byte of it is returned. A record that is in the tier raises NotHere. It costs the others nothing:
its word names a place beyond the pool, where nothing decodes, and only then is it looked at closer. A block that is at
another host still (DUE) raises it too.

A hot path; its benchmark is `scripts/bench engine`.
"""

from __future__ import annotations

from typing import Final

from blockstore.errors import CorruptBlock, InternalSignal
from blockstore.store.arrivals import content_digest
from blockstore.store.codec import DecodeError, decode, decompress, digest
from blockstore.store.geometry import (
    BLOCK_BYTES,
    BLOCK_SHIFT,
    CHECK_SHIFT,
    COMPRESSED,
    DUE,
    ENCODING_MASK,
    HOLE,
    ID_MASK,
    OFFSET_SHIFT,
    PAGED,
    PATCH_BITS,
    SIZE_MASK,
    SIZE_SHIFT,
    ZERO_BLOCK,
    ZERO_ENTRY,
    unpack_paged,
)
from blockstore.store.pool import Pool
from blockstore.store.record_cache import RecordCache
from blockstore.store.rows import Rows
from blockstore.store.volume import Volume

_ZEROS: Final = frozenset((HOLE, ZERO_ENTRY))


class NotHere(InternalSignal):
    """A record is in the tier: have it fetched (fetch.py), and try again."""

    def __init__(self) -> None:
        super().__init__("a record is in the tier; try again when it was fetched")


class Decoder:
    """Reads rows, the pool and `cache`, writes nothing."""

    def __init__(self, rows: Rows, pool: Pool, cache: RecordCache | None = None) -> None:
        self._rows = rows
        self._pool = pool
        self.cache = cache or RecordCache(pool.pieces)

    def content(self, row: int) -> bytes:
        """The block of a live row, not checked against its digest: for comparing, and for references.

        Raises CorruptBlock, NotHere."""
        rows = self._rows
        if row >= rows.capacity:
            raise CorruptBlock(row, "there is no such row")
        where = rows.where.items[row]
        reference = b""
        if where & PATCH_BITS == PATCH_BITS:
            base = rows.reference.items[row]
            if base >= rows.capacity or rows.where.items[base] & PATCH_BITS == PATCH_BITS:
                raise CorruptBlock(row, f"its reference {base} is none")
            reference = self.content(base)
        try:
            return decode(self.record(where), where & ENCODING_MASK, reference)
        except DecodeError as error:
            raise CorruptBlock(row, str(error)) from None

    def record(self, where: int) -> memoryview | bytes:
        """What the pool, or the cache, holds there. Raises NotHere, and DecodeError for a place that cannot be."""
        if where & PAGED:
            fetched = self.cache.get(where)
            if fetched is not None:
                return fetched
            if self.cache.generation(where) < 0:
                raise DecodeError(f"the tier has no piece {unpack_paged(where)[0]} for it")
            raise NotHere
        offset = where >> OFFSET_SHIFT
        return self._pool.view[offset : offset + (where >> SIZE_SHIFT & SIZE_MASK)]

    def read_block(self, volume: Volume, number: int) -> bytes:
        """One whole block; the map must cover it. Raises CorruptBlock, NotHere."""
        entry = volume.lookup(number)
        if not entry or entry == ZERO_ENTRY:
            return ZERO_BLOCK
        return self.verified(entry, volume.domain.seed)

    def read_blocks(self, volume: Volume, first: int, count: int) -> list[bytes]:
        """`count` whole blocks from block `first`. Raises CorruptBlock, NotHere."""
        where_of, digest_of, view = self._rows.where.items, self._rows.digest.items, self._pool.view
        seed = volume.domain.seed
        blocks: list[bytes] = []
        append = blocks.append
        for entry in volume.entries(first, count).tolist():
            if not entry or entry == ZERO_ENTRY:
                append(ZERO_BLOCK)
                continue
            # The usual block without a call, which would cost a tenth; all others, and what is wrong, by `verified`.
            try:
                where = where_of[entry & ID_MASK]
                if where & ENCODING_MASK == COMPRESSED:
                    offset = where >> OFFSET_SHIFT
                    block = decompress(view[offset : offset + (where >> SIZE_SHIFT & SIZE_MASK)], BLOCK_BYTES)
                    found = digest(block, seed)
                    if found == digest_of[entry & ID_MASK] and not (found ^ entry) >> CHECK_SHIFT:
                        append(block)
                        continue
            except (IndexError, DecodeError):
                pass
            append(self.verified(entry, seed))
        return blocks

    def verified(self, entry: int, seed: int) -> bytes:
        """The block of a map entry that is neither HOLE nor ZERO. Raises CorruptBlock, NotHere."""
        row, rows = entry & ID_MASK, self._rows
        if row == DUE:
            return self._due(entry, seed)
        try:
            where = rows.where.items[row]
            if where & ENCODING_MASK == COMPRESSED:
                offset = where >> OFFSET_SHIFT
                block = decompress(self._pool.view[offset : offset + (where >> SIZE_SHIFT & SIZE_MASK)], BLOCK_BYTES)
            else:
                block = self.content(row)
            found = digest(block, seed)
            if found == rows.digest.items[row] and not (found ^ entry) >> CHECK_SHIFT:
                return block
        except IndexError:
            raise CorruptBlock(row, "there is no such row") from None
        except DecodeError as error:
            if not where & PAGED:
                raise CorruptBlock(row, str(error)) from None
            block = self.content(row)
            found = digest(block, seed)
            if found == rows.digest.items[row] and not (found ^ entry) >> CHECK_SHIFT:
                return block
        raise _mismatch(row, entry, rows.digest.items[row])

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

    def read(self, volume: Volume, offset: int, length: int) -> list[bytes | memoryview]:
        """Up to `length` bytes from `offset`, as pieces in order; shorter only at the end of the volume."""
        length = min(length, volume.size_bytes - offset)
        if length <= 0:
            return []
        first, skip = offset >> BLOCK_SHIFT, offset & (BLOCK_BYTES - 1)
        count = (skip + length + BLOCK_BYTES - 1) >> BLOCK_SHIFT
        pieces: list[bytes | memoryview] = list(self.read_blocks(volume, first, count))
        surplus = count * BLOCK_BYTES - skip - length
        if surplus:
            pieces[-1] = memoryview(pieces[-1])[: BLOCK_BYTES - surplus]
        if skip:
            pieces[0] = memoryview(pieces[0])[skip:]
        return pieces


def _mismatch(row: int, entry: int, wanted: int) -> CorruptBlock:
    if (wanted ^ entry) >> CHECK_SHIFT:
        return CorruptBlock(row, "it is not the one that the map entry was made for")
    return CorruptBlock(row, "its content does not match its digest")
