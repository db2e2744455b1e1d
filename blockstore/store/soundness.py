"""What a row and a map entry must be like to be used; and what they were before one bit of them was damaged. Pure.

Everything here looks at tables only; whether records decode to what was written is for whoever reads them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import numpy.typing as npt

from blockstore.store.geometry import (
    BLOCK_BYTES,
    CHECK_SHIFT,
    ENCODING_MASK,
    FIRST_ROW,
    FREE,
    HOLE,
    LOST_ENTRY,
    OFFSET_SHIFT,
    PATCHED,
    RAW,
    SEGMENT_BYTES,
    SIZE_MASK,
    SIZE_SHIFT,
    WHERE_SEGMENT_SHIFT,
    ZERO_ENTRY,
)
from blockstore.store.rows import Rows
from blockstore.store.volume import ids_of

Mask = npt.NDArray[np.bool_]

NOT_ROWS: Final = np.array([HOLE, ZERO_ENTRY, LOST_ENTRY], dtype=np.uint64)
"""The entries that point at no row, and are right."""

_CHECK_FLOOR = np.uint64(1 << CHECK_SHIFT)
_IN_SEGMENT = np.uint64(SEGMENT_BYTES - 1)


def usable_rows(rows: Rows, segments: int) -> Mask:
    """For each row: does it name a record within the first `segments` segments, and a reference if it is a patch?"""
    where, reference = rows.where.array, rows.reference.array
    encoding = where & np.uint64(ENCODING_MASK)
    size = where >> np.uint64(SIZE_SHIFT) & np.uint64(SIZE_MASK)
    start = (where >> np.uint64(OFFSET_SHIFT)) & _IN_SEGMENT
    usable = (encoding != FREE) & (encoding <= PATCHED) & (size > 0) & (size <= BLOCK_BYTES)
    usable &= (where >> np.uint64(WHERE_SEGMENT_SHIFT)) < segments
    usable &= (start + size <= SEGMENT_BYTES) & ((encoding != RAW) | (size == BLOCK_BYTES))
    usable[:FIRST_ROW] = False
    patched = np.flatnonzero(usable & (encoding == PATCHED))
    base = reference[patched]
    in_range = base < rows.capacity
    base = np.where(in_range, base, 0)
    usable[patched] = in_range & usable[base] & (encoding[base] != PATCHED)
    return usable  # type: ignore[no-any-return]


def sound_entries(rows: Rows, usable: Mask, entries: npt.NDArray[np.uint64]) -> Mask:
    """For each map entry: is it one that points at no row, or at a usable row whose content it was made for?"""
    ids = ids_of(entries)
    in_range = ids < len(usable)
    ids = np.where(in_range, ids, 0)
    matches = (entries ^ rows.digest.array[ids]) < _CHECK_FLOOR
    return in_range & usable[ids] & matches | np.isin(entries, NOT_ROWS)  # type: ignore[no-any-return]


def entry_before(rows: Rows, usable: Mask, entry: int, domain: int) -> int | None:
    """The entry that this one was before one of its bits was changed, if there is just one such."""
    candidates = np.uint64(entry) ^ _SINGLE_BITS
    sound = candidates[sound_entries(rows, usable, candidates)]
    ids = ids_of(sound)
    sound = sound[(ids < FIRST_ROW) | (rows.domain.array[ids] == domain)]
    return int(sound[0]) if len(sound) == 1 else None


def word_before(word: int, bits: int, fits: Callable[[int], bool]) -> int | None:
    """The word that this one of so many bits was before one of them was changed: the first that fits."""
    return next((word ^ 1 << bit for bit in range(bits) if fits(word ^ 1 << bit)), None)


_SINGLE_BITS: Final = np.uint64(1) << np.arange(64, dtype=np.uint64)
