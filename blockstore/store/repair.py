"""Undoing what one changed bit has done to a row or its record: try all, and keep the one that gives the digest.

A digest of 64 bits makes a false success impossible in practice. Everything is tried on copies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from blockstore.errors import CorruptBlock
from blockstore.store.codec import DecodeError, decode, digest
from blockstore.store.decode import Decoder
from blockstore.store.geometry import BLOCK_BYTES, ENCODING_MASK, OFFSET_SHIFT, PATCHED
from blockstore.store.pool import Pool
from blockstore.store.rows import Rows
from blockstore.store.shared_array import SharedArray
from blockstore.store.soundness import usable_rows

TRIES_A_STEP = 256
"""Candidates that are decoded in one step, about a millisecond and a half."""

Seeds = dict[int, int]
"""The seed of each domain, by its index."""


def is_whole(rows: Rows, decoder: Decoder, seeds: Seeds, row: int) -> bool:
    """Does the row decode to what its digest says?"""
    seed = seeds.get(rows.domain.items[row])
    if seed is None:
        return False
    try:
        return digest(decoder.content(row), seed) == rows.digest.items[row]
    except CorruptBlock:
        return False


def row_steps(rows: Rows, pool: Pool, decoder: Decoder, seeds: Seeds, row: int) -> Iterator[bool]:
    """Repair a row that is not whole, if one bit is to blame. Steps; the row is whole afterwards, or as it was."""
    wanted, content = rows.digest.items[row], _content(decoder, row)
    seed = seeds.get(rows.domain.items[row])
    if content is not None and seed is not None:
        found = digest(content, seed)
        if (found ^ wanted).bit_count() == 1:
            rows.digest.items[row] = found
            return

    def fits() -> bool:
        return bool(usable_rows(rows, pool.segments, np.array([row]))[0]) and is_whole(rows, decoder, seeds, row)

    for column, bits in ((rows.domain, 16), (rows.where, 64), (rows.reference, 32)):
        if _try_word(column, row, bits, fits):
            return
        yield True
    yield from _try_record(rows, pool, decoder, seed, row)


def _try_word(column: SharedArray, row: int, bits: int, fits: Callable[[], bool]) -> bool:
    was = column.items[row]
    for bit in range(bits):
        column.items[row] = was ^ 1 << bit
        if fits():
            return True
    column.items[row] = was
    return False


def _try_record(rows: Rows, pool: Pool, decoder: Decoder, seed: int | None, row: int) -> Iterator[bool]:
    where, wanted = rows.where.items[row], rows.digest.items[row]
    encoding = where & ENCODING_MASK
    reference = _content(decoder, rows.reference.items[row]) if encoding == PATCHED else b""
    if seed is None or reference is None or not usable_rows(rows, pool.segments, np.array([row]))[0]:
        return
    record = bytearray(decoder.record(where))
    for position in range(len(record)):
        for bit in range(8):
            record[position] ^= 1 << bit
            if _gives(record, encoding, reference, seed, wanted):
                if rows.where.items[row] == where and rows.digest.items[row] == wanted:  # as it was when we began
                    pool.view[(where >> OFFSET_SHIFT) + position] = record[position]
                return
            record[position] ^= 1 << bit
        if position % (TRIES_A_STEP // 8) == 0:
            yield True


def _gives(record: bytearray, encoding: int, reference: bytes, seed: int, wanted: int) -> bool:
    try:
        block = decode(record, encoding, reference)
    except DecodeError:
        return False
    return len(block) == BLOCK_BYTES and digest(block, seed) == wanted


def _content(decoder: Decoder, row: int) -> bytes | None:
    try:
        return decoder.content(row)
    except CorruptBlock:
        return None
