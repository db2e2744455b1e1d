"""Temperature: records of cold segments are encoded anew with zstd (dense.py), which takes a third of them away.

A segment is cold when it was filled some time ago: the records in it are what was written then and is still in use.
Reads do not warm it, because a dense record costs a reader some 5 us more, and what is read often is resident.

Each cold segment is looked at once. What gets smaller moves to the head, as in compaction: the record is appended,
then one store of its row's word publishes it, so that a process killed in between leaves the old record or the new
one. A patch stays a patch against the same reference. The holes are for compaction (upkeep.py).

A fault may wait for each call of `pick` and `replace`, so they are short; `encode`, which is the most of the work,
needs nothing of the store.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from blockstore.errors import CorruptBlock, OutOfRoom
from blockstore.store import dense
from blockstore.store.codec import DecodeError, decode, digest
from blockstore.store.decode import Decoder, NotHere
from blockstore.store.domains import Domains
from blockstore.store.geometry import (
    COMPRESSED,
    DENSE,
    DENSE_PATCHED,
    ENCODING_MASK,
    FIRST_ROW,
    PAGED,
    PATCH_BITS,
    PATCHED,
    RAW,
    SIZE_MASK,
    SIZE_SHIFT,
    WHERE_SEGMENT_SHIFT,
    pack_where,
)
from blockstore.store.pool import Pool
from blockstore.store.rows import Rows

MINIMUM_BYTES: Final = 256
"""Records that are smaller are a twentieth of all, and all of them together 0.4 % of the bytes."""

GAIN_BYTES: Final = 32
GAIN_SHARE: Final = 0.05
"""A record that gets smaller by less than either stays as it is: it would not be worth its slower reads."""

BATCH_BLOCKS: Final = 8
"""Picked, and replaced, in one visit to the store: under 0.1 ms each."""

ROWS_A_STEP: Final = 1 << 14
"""Rows looked at in one step, about 0.1 ms."""


class Cold(NamedTuple):
    """What `encode` has to know of a row, and what must still be so when its new record takes the old one's place."""

    row: int
    where: int
    base: int
    digest: int
    seed: int
    block: bytes
    reference: bytes


class Gain(NamedTuple):
    """A row's smaller record."""

    cold: Cold
    record: bytes


class Densify:
    """Passes over the rows: writes `where` of rows, and the pool."""

    def __init__(self, rows: Rows, pool: Pool, decoder: Decoder, domains: Domains) -> None:
        self._rows = rows
        self._pool = pool
        self._decoder = decoder
        self._domains = domains
        # By segment: the generation that was seen to be full and since when, and the one that was done.
        self._seen = np.full(pool.segments, -1, dtype=np.int64)
        self._since_s = np.zeros(pool.segments)
        self._done = np.full(pool.segments, -1, dtype=np.int64)
        self._cold: npt.NDArray[np.bool_] | None = None
        self._cold_generation = self._done
        self._scanned = FIRST_ROW
        self._pending: list[int] = []
        self._seeds: dict[int, int] = {}
        self.tried = self.replaced = self.saved_bytes = 0
        """Blocks that were tried, those of them that became dense, and by how much their records are smaller."""

    def begin(self, now_s: float, cold_after_s: float) -> bool:
        """Is a pass under way, or is there a cold segment to begin one for? To be asked every few seconds."""
        if self._cold is not None:
            return True
        self._fit()
        pool = self._pool
        full, generation = pool.full_segments(), pool.generation
        fresh = full & (self._seen != generation)
        self._seen[fresh], self._since_s[fresh] = generation[fresh], now_s
        cold = full & (self._done != generation) & (self._since_s <= now_s - cold_after_s)
        if not cold.any():
            return False
        self._start(cold)
        return True

    def begin_all(self) -> None:
        """Begin a pass over everything, however young, the head too."""
        self._fit()
        self._start(np.ones(self._pool.segments, dtype=np.bool_))

    def pick(self) -> list[Cold] | None:
        """Some records of the pass, decoded; None when it is at its end."""
        if self._cold is None:
            return None
        if not self._pending:
            if self._scanned >= self._rows.next_row:
                self._done[self._cold] = self._cold_generation[self._cold]
                self._cold = None
                return None
            self._scan(self._cold)
        batch, self._pending = self._pending[:BATCH_BLOCKS], self._pending[BATCH_BLOCKS:]
        picked = [cold for row in batch if (cold := self._decoded(row)) is not None]
        self.tried += len(picked)
        return picked

    def replace(self, gains: Sequence[Gain]) -> bool:
        """Let these rows have their new records, unless they have changed since they were picked; False, and nothing is
        done, when there is no room."""
        rows = self._rows
        still = [gain for gain in gains if self._is_unchanged(gain.cold)]
        if not still:
            return True
        sizes = np.fromiter((len(gain.record) for gain in still), dtype=np.int64, count=len(still))
        try:
            offsets = self._pool.append([gain.record for gain in still], sizes)
        except OutOfRoom:
            self._pending[:0] = [gain.cold.row for gain in still]
            return False
        for (cold, record), offset in zip(still, offsets.tolist(), strict=True):
            rows.where.items[cold.row] = pack_where(offset, len(record), DENSE_PATCHED if cold.base else DENSE)
        before = np.array([gain.cold.where for gain in still], dtype=np.uint64)
        self._pool.forget(before)
        self.replaced += len(still)
        self.saved_bytes += int((before >> np.uint64(SIZE_SHIFT) & np.uint64(SIZE_MASK)).sum()) - int(sizes.sum())
        return True

    def step(self) -> bool:
        """All three, for who has the store to himself; False at the end of the pass, or when there is no room."""
        picked = self.pick()
        return picked is not None and self.replace(encode(picked))

    def _start(self, cold: npt.NDArray[np.bool_]) -> None:
        self._cold, self._cold_generation = cold, self._pool.generation.copy()
        self._cold_generation[~self._pool.full_segments()] = -1  # a head is not done, whatever of it was tried
        self._scanned, self._pending = FIRST_ROW, []

    def _fit(self) -> None:
        """The pool may have got more segments."""
        more = self._pool.segments - len(self._seen)
        if more:
            self._seen, self._done = (
                np.concatenate((column, np.full(more, -1, dtype=np.int64))) for column in (self._seen, self._done)
            )
            self._since_s = np.concatenate((self._since_s, np.zeros(more)))

    def _scan(self, cold: npt.NDArray[np.bool_]) -> None:
        """Look at some more rows."""
        end = min(self._scanned + ROWS_A_STEP, self._rows.next_row)
        where = self._rows.where.array[self._scanned : end]
        segment = (where >> np.uint64(WHERE_SEGMENT_SHIFT)).astype(np.int64)
        size = where >> np.uint64(SIZE_SHIFT) & np.uint64(SIZE_MASK)
        # A limit that was raised since has made segments that are not cold; what is paged is in none.
        wanted = _IS_TRIED[where & np.uint64(ENCODING_MASK)] & (size >= MINIMUM_BYTES) & cold.take(segment, mode="clip")
        wanted &= where < np.uint64(PAGED)
        self._pending = (np.flatnonzero(wanted) + self._scanned).tolist()
        self._scanned = end
        self._seeds = self._domains.seeds()

    def _decoded(self, row: int) -> Cold | None:
        """The row, unless it was freed or encoded anew since it was listed, or cannot be read."""
        rows, decoder = self._rows, self._decoder
        where, domain = rows.where.items[row], rows.domain.items[row]
        encoding = where & ENCODING_MASK
        if not _IS_TRIED[encoding] or domain not in self._seeds or where & PAGED:
            return None
        is_patch = encoding & PATCH_BITS == PATCH_BITS
        base = rows.reference.items[row] if is_patch else 0
        if is_patch and base < FIRST_ROW:
            return None
        try:
            reference = decoder.content(base) if base else b""
            block = decode(decoder.record(where), encoding, reference)
        except (CorruptBlock, DecodeError, NotHere):
            return None  # whoever reads it is told; what is in the tier is cold enough
        return Cold(row, where, base, rows.digest.items[row], self._seeds[domain], block, reference)

    def _is_unchanged(self, cold: Cold) -> bool:
        rows, row = self._rows, cold.row
        return (
            rows.where.items[row] == cold.where
            and rows.digest.items[row] == cold.digest
            and (not cold.base or rows.reference.items[row] == cold.base)
        )


def encode(picked: Sequence[Cold]) -> list[Gain]:
    """Those that get smaller. Touches nothing but what it is given."""
    gains = []
    for cold in picked:
        if digest(cold.block, cold.seed) != cold.digest:
            continue  # damaged: only as it is may it still be repaired
        record = dense.make_patch(cold.block, cold.reference) if cold.base else dense.compress(cold.block)
        size = cold.where >> SIZE_SHIFT & SIZE_MASK
        if size - len(record) >= max(GAIN_BYTES, GAIN_SHARE * size):
            gains.append(Gain(cold, record))
    return gains


_IS_TRIED: Final = np.isin(np.arange(ENCODING_MASK + 1), (RAW, COMPRESSED, PATCHED))
