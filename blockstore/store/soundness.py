"""What a row and a map entry must be like to be used; and what they were before one bit of them was damaged. Pure.

Everything here looks at tables only; whether records decode to what was written is for whoever reads them.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from blockstore.store.arrivals import are_due
from blockstore.store.geometry import (
    BLOCK_BYTES,
    CHECK_SHIFT,
    COMPRESSED,
    DENSE,
    DENSE_PATCHED,
    ENCODING_MASK,
    FIRST_ROW,
    HOLE,
    LOST_ENTRY,
    OFFSET_SHIFT,
    PATCH_BITS,
    PATCHED,
    PIECE_MASK,
    RAW,
    SEGMENT_BYTES,
    SIZE_MASK,
    SIZE_SHIFT,
    WHERE_SEGMENT_SHIFT,
    ZERO_ENTRY,
)
from blockstore.store.pool import Places, Pool
from blockstore.store.rows import Rows
from blockstore.store.volume import ids_of

Mask = npt.NDArray[np.bool_]

NOT_ROWS: Final = np.array([HOLE, ZERO_ENTRY, LOST_ENTRY], dtype=np.uint64)
"""The entries that point at no row, and are right; those of blocks that are due come on top."""

_CHECK_FLOOR = np.uint64(1 << CHECK_SHIFT)
_ENCODING = np.uint64(ENCODING_MASK)
_PATCH = np.uint64(PATCH_BITS)
_IS_KNOWN = np.isin(np.arange(ENCODING_MASK + 1), (RAW, COMPRESSED, PATCHED, DENSE, DENSE_PATCHED))
_IN_SEGMENT = np.uint64(SEGMENT_BYTES - 1)


def usable_rows(rows: Rows, places: Places, ids: npt.NDArray[np.int64] | None = None) -> Mask:
    """For each of these rows, or for all: does it name a record in one of these places, and a reference if it is a
    patch?"""
    ids = np.arange(rows.capacity) if ids is None else ids
    usable = names_record(rows.where.array[ids], places) & (ids >= FIRST_ROW)
    patched = np.flatnonzero(usable & (rows.where.array[ids] & _PATCH == _PATCH))
    if len(patched):
        base = rows.reference.array[ids[patched]].astype(np.int64)
        in_range = (base >= FIRST_ROW) & (base < rows.capacity)
        where = rows.where.array[np.where(in_range, base, 0)]
        usable[patched] = in_range & names_record(where, places) & (where & _PATCH != _PATCH)
    return usable


def names_record(where: npt.NDArray[np.uint64], places: Places) -> Mask:
    """For each `where` word: does it say a known encoding, and a record that lies in a segment or a piece?"""
    encoding = where & _ENCODING
    size = where >> np.uint64(SIZE_SHIFT) & np.uint64(SIZE_MASK)
    start = (where >> np.uint64(OFFSET_SHIFT)) & _IN_SEGMENT
    found = _IS_KNOWN[encoding] & (size > 0) & (size <= BLOCK_BYTES)
    found &= start + size <= _room(where >> np.uint64(WHERE_SEGMENT_SHIFT), places)
    found &= (encoding != RAW) | (size == BLOCK_BYTES)
    return np.asarray(found, dtype=np.bool_)


def names_one(where: int, pool: Pool) -> bool:
    """`names_record` for one word, in a thirtieth of the time: verification asks for each record."""
    encoding, size = where & ENCODING_MASK, where >> SIZE_SHIFT & SIZE_MASK
    place, start = where >> WHERE_SEGMENT_SHIFT, where >> OFFSET_SHIFT & SEGMENT_BYTES - 1
    if place > PIECE_MASK:
        room = pool.pieces.length(place & PIECE_MASK)
    else:
        room = SEGMENT_BYTES if place < pool.segments else 0
    if not _IS_KNOWN[encoding] or not 0 < size <= BLOCK_BYTES or start + size > room:
        return False
    return encoding != RAW or size == BLOCK_BYTES


def _room(place: npt.NDArray[np.uint64], places: Places) -> npt.NDArray[np.uint64]:
    """The bytes that each segment or piece has; 0 if there is none."""
    room = np.where(place < places.segments, np.uint64(SEGMENT_BYTES), np.uint64(0))
    paged = np.flatnonzero(place > PIECE_MASK)
    if len(paged):
        number = (place[paged] & np.uint64(PIECE_MASK)).astype(np.int64)
        known = number < len(places.piece_lengths)
        room[paged] = np.where(known, places.piece_lengths[np.where(known, number, 0)], 0)
    return room


def sound_entries(rows: Rows, places: Places, entries: npt.NDArray[np.uint64]) -> Mask:
    """For each map entry: is it one that points at no row, or at a usable row whose content it was made for?"""
    ids = ids_of(entries)
    ids[ids >= rows.capacity] = HOLE
    matches = (entries ^ rows.digest.array[ids]) < _CHECK_FLOOR
    sound = (usable_rows(rows, places, ids) & matches) | np.isin(entries, NOT_ROWS)
    return np.asarray(sound | are_due(entries, places.arrivals) if places.arrivals else sound)


def entry_before(rows: Rows, places: Places, entry: int, domain: int) -> int | None:
    """The entry that this one was before one of its bits was changed, if there is just one such."""
    candidates = np.uint64(entry) ^ _SINGLE_BITS
    sound = candidates[sound_entries(rows, places, candidates)]
    ids = ids_of(sound)
    sound = sound[(ids < FIRST_ROW) | (rows.domain.array[ids] == domain)]
    return int(sound[0]) if len(sound) == 1 else None


_SINGLE_BITS: Final = np.uint64(1) << np.arange(64, dtype=np.uint64)
