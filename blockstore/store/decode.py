"""From a row back to its 4096 bytes, and from a volume to any range of its bytes.

What is read is checked against the row's digest: a record that does not decode to what was written raises
CorruptBlock, and no byte of it is returned. A hot path; its benchmark is `scripts/bench engine`.
"""

from __future__ import annotations

from blockstore.errors import CorruptBlock
from blockstore.store.codec import DecodeError, apply_patch, decompress, digest
from blockstore.store.geometry import (
    BLOCK_BYTES,
    BLOCK_SHIFT,
    COMPRESSED,
    ENCODING_MASK,
    OFFSET_SHIFT,
    PATCHED,
    RAW,
    SIZE_MASK,
    SIZE_SHIFT,
    ZERO_BLOCK,
)
from blockstore.store.pool import Pool
from blockstore.store.rows import Rows
from blockstore.store.volume import Volume


class Decoder:
    """Reads rows and the pool, writes nothing."""

    def __init__(self, rows: Rows, pool: Pool) -> None:
        self._rows = rows
        self._pool = pool

    def content(self, row: int) -> bytes:
        """The block of a live row, not checked against its digest: for comparing, and for references."""
        where = self._rows.where.items[row]
        encoding = where & ENCODING_MASK
        offset = where >> OFFSET_SHIFT
        record = self._pool.view[offset : offset + (where >> SIZE_SHIFT & SIZE_MASK)]
        try:
            if encoding == COMPRESSED:
                return decompress(record, BLOCK_BYTES)
            if encoding == RAW:
                return bytes(record)
            if encoding == PATCHED:
                return apply_patch(record, self.content(self._rows.reference.items[row]))
        except DecodeError as error:
            raise CorruptBlock(row, str(error)) from None
        raise CorruptBlock(row, f"its row has the unknown encoding {encoding}")

    def read_block(self, volume: Volume, number: int) -> bytes:
        """One whole block; the map must cover it. Raises CorruptBlock."""
        row = volume.lookup(number)
        if row <= 1:  # HOLE or ZERO
            return ZERO_BLOCK
        where = self._rows.where.items[row]
        if where & ENCODING_MASK == COMPRESSED:
            offset = where >> OFFSET_SHIFT
            try:
                block = decompress(self._pool.view[offset : offset + (where >> SIZE_SHIFT & SIZE_MASK)], BLOCK_BYTES)
            except DecodeError as error:
                raise CorruptBlock(row, str(error)) from None
        else:
            block = self.content(row)
        if digest(block, volume.domain.seed) != self._rows.digest.items[row]:
            raise _mismatch(row)
        return block

    def read_blocks(self, volume: Volume, first: int, count: int) -> list[bytes]:
        """`count` whole blocks from block `first`. Raises CorruptBlock."""
        where_of, digest_of, view = self._rows.where.items, self._rows.digest.items, self._pool.view
        seed = volume.domain.seed
        blocks: list[bytes] = []
        append = blocks.append
        for row in volume.ids(first, count).tolist():
            if row <= 1:  # HOLE or ZERO
                append(ZERO_BLOCK)
                continue
            where = where_of[row]
            if where & ENCODING_MASK == COMPRESSED:
                offset = where >> OFFSET_SHIFT
                try:
                    block = decompress(view[offset : offset + (where >> SIZE_SHIFT & SIZE_MASK)], BLOCK_BYTES)
                except DecodeError as error:
                    raise CorruptBlock(row, str(error)) from None
            else:
                block = self.content(row)
            if digest(block, seed) != digest_of[row]:
                raise _mismatch(row)
            append(block)
        return blocks

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


def _mismatch(row: int) -> CorruptBlock:
    return CorruptBlock(row, "its content does not match its digest")
