"""From a row back to its 4096 bytes, and from a volume to any range of its bytes.

What is read is checked against the row's digest: a record that does not decode to what was written raises
CorruptBlock, and no byte of it is returned. A hot path; its benchmark is `scripts/bench engine`.
"""

from __future__ import annotations

from typing import Final

from blockstore.errors import CorruptBlock
from blockstore.store.codec import DecodeError, decode, decompress, digest
from blockstore.store.geometry import (
    BLOCK_BYTES,
    BLOCK_SHIFT,
    CHECK_SHIFT,
    COMPRESSED,
    ENCODING_MASK,
    HOLE,
    ID_MASK,
    OFFSET_SHIFT,
    PATCH_BITS,
    SIZE_MASK,
    SIZE_SHIFT,
    ZERO_BLOCK,
    ZERO_ENTRY,
)
from blockstore.store.pool import Pool
from blockstore.store.rows import Rows
from blockstore.store.volume import Volume

_ZEROS: Final = frozenset((HOLE, ZERO_ENTRY))


class Decoder:
    """Reads rows and the pool, writes nothing."""

    def __init__(self, rows: Rows, pool: Pool) -> None:
        self._rows = rows
        self._pool = pool

    def content(self, row: int) -> bytes:
        """The block of a live row, not checked against its digest: for comparing, and for references."""
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

    def record(self, where: int) -> memoryview:
        """What the pool holds there."""
        offset = where >> OFFSET_SHIFT
        return self._pool.view[offset : offset + (where >> SIZE_SHIFT & SIZE_MASK)]

    def read_block(self, volume: Volume, number: int) -> bytes:
        """One whole block; the map must cover it. Raises CorruptBlock."""
        entry = volume.lookup(number)
        if not entry or entry == ZERO_ENTRY:
            return ZERO_BLOCK
        return self.verified(entry, volume.domain.seed)

    def read_blocks(self, volume: Volume, first: int, count: int) -> list[bytes]:
        """`count` whole blocks from block `first`. Raises CorruptBlock."""
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
        """The block of a map entry that is neither HOLE nor ZERO. Raises CorruptBlock."""
        row, rows = entry & ID_MASK, self._rows
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
            raise CorruptBlock(row, str(error)) from None
        raise _mismatch(row, entry, rows.digest.items[row])

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
