"""Undoing what one changed bit has done to a row or its record: try all, and keep the one that gives the digest.

What is in the tier cannot be mended there, only the row that points at it.

A digest of 64 bits makes a false success impossible in practice. What is tried is never in the tables: one store puts
the right word or byte in its place at the end.
"""

from __future__ import annotations

from blockstore.plane.codec.codec import DecodeError
from blockstore.plane.codec.dictionary import Dictionary
from blockstore.store.checks.cross_check import Buffer, CrossCheckError, decode, digest
from blockstore.store.checks.soundness import names_one
from blockstore.store.decode import Decoder
from blockstore.store.state.geometry import (
    DENSE_FIRST,
    DENSE_SECOND,
    ENCODING_MASK,
    FIRST_ROW,
    PAGED,
    PATCH_BITS,
)
from blockstore.store.state.location import offset_of
from blockstore.store.state.pool import Pool
from blockstore.store.state.rows import Rows
from blockstore.store.steps import NotHere, Outcome, Steps

TRIES_A_STEP = 128
"""Candidates that are decoded in one step, about a millisecond; two with zstd."""

Seeds = dict[int, int]
"""The seed of each domain, by its index."""


class Repair:
    """Of the rows of one store."""

    def __init__(self, rows: Rows, pool: Pool, decoder: Decoder, seeds: Seeds) -> None:
        self._rows = rows
        self._pool = pool
        self._decoder = decoder
        self._seeds = seeds
        self._content: tuple[Dictionary, bytes] | None = None

    def is_whole(self, row: int) -> bool:
        """Does the row decode to what its digest says? Raises NotHere."""
        rows = self._rows
        where, base = rows.where.items[row], rows.reference.items[row]
        return self._digest_of(where, base, rows.domain.items[row]) == rows.digest.items[row]

    def steps(self, row: int) -> Steps:
        """Repair a row that is not whole, if one bit is to blame. It is whole afterwards, or as it was.

        Raises NotHere."""
        rows = self._rows
        where, base, domain, wanted = (
            column.items[row] for column in (rows.where, rows.reference, rows.domain, rows.digest)
        )
        found = self._digest_of(where, base, domain)
        if found is not None and (found ^ wanted).bit_count() == 1:
            rows.digest.items[row] = found
            return
        for bit in range(16):
            if self._gives(where, base, domain ^ 1 << bit, wanted):
                rows.domain.items[row] = domain ^ 1 << bit
                return
        for bit in range(64):
            if self._gives(where ^ 1 << bit, base, domain, wanted):
                rows.where.items[row] = where ^ 1 << bit
                return
        yield Outcome.WENT_ON
        for bit in range(32):
            if where & PATCH_BITS == PATCH_BITS and self._gives(where, base ^ 1 << bit, domain, wanted):
                rows.reference.items[row] = base ^ 1 << bit
                return
        yield Outcome.WENT_ON
        yield from self._record_steps(row, where, base, domain, wanted)

    def _record_steps(self, row: int, where: int, base: int, domain: int, wanted: int) -> Steps:
        seed, reference = self._seeds.get(domain), self._reference(where, base, domain)
        if seed is None or reference is None or not names_one(where, self._pool) or where & PAGED:
            return
        record = bytearray(self._decoder.record(where))
        for position in range(len(record)):
            for bit in range(8):
                record[position] ^= 1 << bit
                if _digest(record, where & ENCODING_MASK, reference, seed) == wanted:
                    if self._rows.where.items[row] == where:  # it was not moved meanwhile
                        self._pool.mend(offset_of(where) + position, record[position])
                    return
                record[position] ^= 1 << bit
            if position % (TRIES_A_STEP // 8) == 0:
                yield Outcome.WENT_ON

    def _gives(self, where: int, base: int, domain: int, wanted: int) -> bool:
        try:
            return self._digest_of(where, base, domain) == wanted
        except NotHere:
            return False

    def _digest_of(self, where: int, base: int, domain: int) -> int | None:
        """The digest of what a row with these words decodes to; None if that is nothing. Raises NotHere."""
        seed, reference = self._seeds.get(domain), self._reference(where, base, domain)
        if seed is None or reference is None or not names_one(where, self._pool):
            return None
        record = self._record(where)
        return None if record is None else _digest(record, where & ENCODING_MASK, reference, seed)

    def _reference(self, where: int, base: int, domain: int) -> bytes | None:
        """What a patch is against, or the dictionary that the encoding needs, empty for other encodings; None if there
        is no such thing."""
        rows = self._rows
        if where & PATCH_BITS != PATCH_BITS:
            return self._dictionary(where & ENCODING_MASK, domain)
        if not FIRST_ROW <= base < rows.capacity or rows.where.items[base] & PATCH_BITS == PATCH_BITS:
            return None
        of_base = rows.where.items[base]
        record = self._record(of_base)
        try:
            dictionary = self._dictionary(of_base & ENCODING_MASK, rows.domain.items[base])
            return None if record is None or dictionary is None else decode(record, of_base & ENCODING_MASK, dictionary)
        except CrossCheckError:
            return None

    def _dictionary(self, encoding: int, domain: int) -> bytes | None:
        """What the encoding needs, empty for those that need none; None if there is no such dictionary."""
        if encoding not in (DENSE_FIRST, DENSE_SECOND):
            return b""
        dictionary = self._decoder.dictionary(domain, encoding - DENSE_FIRST)
        if dictionary is None:
            return None
        if self._content is None or self._content[0] is not dictionary:
            self._content = dictionary, dictionary.content()  # most records that come one after the other need the same
        return self._content[1]

    def _record(self, where: int) -> Buffer | None:
        """What lies there; None for a place that cannot be. Raises NotHere."""
        try:
            return self._decoder.record(where)
        except DecodeError:
            return None


def _digest(record: Buffer, encoding: int, reference: bytes, seed: int) -> int | None:
    try:
        return digest(decode(record, encoding, reference), seed)
    except CrossCheckError:
        return None
