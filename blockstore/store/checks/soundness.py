"""What a row and a map entry must be like to be used; and what they were before one bit of them was damaged. Pure.

The plane judges (plane/tables/soundness.pyi): tables only; whether records decode to what was written is for whoever
reads them.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING, Final

from blockstore.plane.tables.soundness import Places, judge_entries
from blockstore.plane.tables.tables import Tables
from blockstore.store.state.geometry import (
    BLOCK_BYTES,
    COMPRESSED,
    DENSE,
    DENSE_FIRST,
    DENSE_PATCHED,
    DENSE_SECOND,
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

if TYPE_CHECKING:
    from blockstore.plane.buffers import U64s

_KNOWN: Final = frozenset((RAW, COMPRESSED, PATCHED, DENSE, DENSE_FIRST, DENSE_SECOND, DENSE_PATCHED))


def names_one(where: int, pool: Pool) -> bool:
    """Does a `where` word say a known encoding, and a record that lies in a segment or a piece? As the plane judges,
    but without a list of all pieces: repair asks for each record."""
    encoding, size, place = where & ENCODING_MASK, size_of(where), place_of(where)
    if place >= PAGED_PLACE:
        room = pool.pieces.length(piece_of(place))
    else:
        room = SEGMENT_BYTES if place < pool.segments.count else 0
    if encoding not in _KNOWN or not 0 < size <= BLOCK_BYTES or start_of(where) + size > room:
        return False
    return encoding != RAW or size == BLOCK_BYTES


def sound_entries(tables: Tables, places: Places, entries: U64s) -> bytearray:
    """For each map entry 1 or 0: is it one that points at no row, or at a usable row whose content it was made for?"""
    sound = bytearray(len(entries))
    judge_entries(tables, places, entries, sound)
    return sound


def entry_before(tables: Tables, rows: Rows, places: Places, entry: int, domain: int) -> int | None:
    """The entry that this one was before one of its bits was changed, if there is just one such."""
    candidates = array("Q", [entry ^ 1 << bit for bit in range(64)])
    sound = sound_entries(tables, places, candidates)
    found = [
        candidate
        for candidate, is_sound in zip(candidates, sound, strict=True)
        if is_sound and ((row := candidate & ID_MASK) < FIRST_ROW or rows.domain.items[row] == domain)
    ]
    return found[0] if len(found) == 1 else None
