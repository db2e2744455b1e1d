"""What a row and a map entry must be like to be used; and what they were before one bit of them was damaged. Pure.

The plane judges (plane/tables/soundness.pyi): tables only; whether records decode to what was written is for whoever
reads them.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from blockstore.plane.tables.soundness import Places, judge_entries, judge_words
from blockstore.plane.tables.tables import Tables
from blockstore.store.state.geometry import (
    BLOCK_BYTES,
    COMPRESSED,
    DENSE,
    DENSE_PATCHED,
    ENCODING_MASK,
    FIRST_ROW,
    ID_MASK,
    PATCHED,
    RAW,
    SEGMENT_BYTES,
)
from blockstore.store.state.location import PAGED_PLACE, piece_of, place_of, size_of, start_of
from blockstore.store.state.pool import Pool
from blockstore.store.state.rows import Rows

Mask = npt.NDArray[np.bool_]

_KNOWN: Final = frozenset((RAW, COMPRESSED, PATCHED, DENSE, DENSE_PATCHED))


def names_record(where: npt.NDArray[np.uint64], places: Places) -> Mask:
    """For each `where` word: does it say a known encoding, and a record that lies in a segment or a piece?"""
    sound = np.empty(len(where), dtype=np.bool_)
    judge_words(places, where, sound.view(np.uint8))
    return sound


def names_one(where: int, pool: Pool) -> bool:
    """`names_record` for one word, in a thirtieth of the time: verification asks for each record."""
    encoding, size, place = where & ENCODING_MASK, size_of(where), place_of(where)
    if place >= PAGED_PLACE:
        room = pool.pieces.length(piece_of(place))
    else:
        room = SEGMENT_BYTES if place < pool.segments.count else 0
    if encoding not in _KNOWN or not 0 < size <= BLOCK_BYTES or start_of(where) + size > room:
        return False
    return encoding != RAW or size == BLOCK_BYTES


def sound_entries(tables: Tables, places: Places, entries: npt.NDArray[np.uint64]) -> Mask:
    """For each map entry: is it one that points at no row, or at a usable row whose content it was made for?"""
    sound = np.empty(len(entries), dtype=np.bool_)
    judge_entries(tables, places, entries, sound.view(np.uint8))
    return sound


def entry_before(tables: Tables, rows: Rows, places: Places, entry: int, domain: int) -> int | None:
    """The entry that this one was before one of its bits was changed, if there is just one such."""
    candidates = np.uint64(entry) ^ _SINGLE_BITS
    sound = candidates[sound_entries(tables, places, candidates)]
    ids = sound & np.uint64(ID_MASK)
    sound = sound[(ids < FIRST_ROW) | (rows.domain.array[ids] == domain)]
    return int(sound[0]) if len(sound) == 1 else None


_SINGLE_BITS: Final = np.uint64(1) << np.arange(64, dtype=np.uint64)
