"""The location word of a row: the only module that packs and unpacks it (geometry.py has its layout).

The functions without an `s` are for one word, the others for arrays of them (uint64), which take a twentieth of the
time for each word. A *place* is what a record lies in: the number of a segment, or PAGED_PLACE and the number of a
piece.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from blockstore.store.state.geometry import (
    ENCODING_MASK,
    OFFSET_SHIFT,
    PAGED,
    PATCH_BITS,
    PIECE_MASK,
    SEGMENT_BYTES,
    SIZE_MASK,
    SIZE_SHIFT,
    WHERE_SEGMENT_SHIFT,
)

Words = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]

PAGED_PLACE: Final = PAGED >> WHERE_SEGMENT_SHIFT
"""Added to the number of a piece, it makes a place; a segment's number is one."""

LAST_PIECE: Final = PIECE_MASK
"""The largest number that a piece can have."""

_BELOW_OFFSET: Final = (1 << OFFSET_SHIFT) - 1
_IN_PLACE: Final = SEGMENT_BYTES - 1
assert ENCODING_MASK | SIZE_MASK << SIZE_SHIFT == _BELOW_OFFSET  # what a move leaves as it is


def pack(offset: int, size_bytes: int, encoding: int) -> int:
    """Returns the word of a record at a byte offset in the pool."""
    return offset << OFFSET_SHIFT | size_bytes << SIZE_SHIFT | encoding


def moved(where: int, offset: int) -> int:
    """Returns the word of the same record at another byte offset in the pool."""
    return offset << OFFSET_SHIFT | where & _BELOW_OFFSET


def size_of(where: int) -> int:
    """Returns the size of the record in bytes."""
    return where >> SIZE_SHIFT & SIZE_MASK


def offset_of(where: int) -> int:
    """Returns the byte offset in the pool; beyond any pool for a paged word."""
    return where >> OFFSET_SHIFT


def start_of(where: int) -> int:
    """Returns the byte offset in the segment or piece."""
    return where >> OFFSET_SHIFT & _IN_PLACE


def place_of(where: int) -> int:
    """Returns the segment, or PAGED_PLACE and the piece."""
    return where >> WHERE_SEGMENT_SHIFT


def piece_of(place: int) -> int:
    """Returns the number of the piece that is a place."""
    return place & PIECE_MASK


def unpack_paged(where: int) -> tuple[int, int, int]:
    """Returns (piece, offset in it, size_bytes) of a paged word."""
    return where >> WHERE_SEGMENT_SHIFT & PIECE_MASK, start_of(where), size_of(where)


def packs(offsets: Numbers, sizes: Numbers, encodings: npt.NDArray[np.integer]) -> Words:
    """Returns the words of records at byte offsets in the pool."""
    return (offsets << OFFSET_SHIFT | sizes << SIZE_SHIFT | encodings).astype(np.uint64)


def all_moved(where: Words, offsets: Numbers) -> Words:
    """Returns the words of the same records at other byte offsets in the pool, in the same order."""
    return offsets.astype(np.uint64) << np.uint64(OFFSET_SHIFT) | where & np.uint64(_BELOW_OFFSET)


def all_paged(where: Words, piece: int, starts: Numbers) -> Words:
    """Returns the words of the same records at these offsets in a piece."""
    return all_moved(where, starts) | np.uint64((PAGED_PLACE + piece) << WHERE_SEGMENT_SHIFT)


def sizes_of(where: Words) -> Numbers:
    """Returns the sizes of the records in bytes; 0 for a free row."""
    return (where >> np.uint64(SIZE_SHIFT) & np.uint64(SIZE_MASK)).astype(np.int64)


def starts_of(where: Words) -> Numbers:
    """Returns the byte offsets in the segments or pieces."""
    return (where >> np.uint64(OFFSET_SHIFT) & np.uint64(_IN_PLACE)).astype(np.int64)


def places_of(where: Words) -> Numbers:
    """Returns the segments, or PAGED_PLACE and the pieces; segment 0 for a free row."""
    return (where >> np.uint64(WHERE_SEGMENT_SHIFT)).astype(np.int64)


def pieces_of(places: Numbers) -> Numbers:
    """Returns the numbers of the pieces that are these places."""
    return places & PIECE_MASK


def encodings_of(where: Words) -> Words:
    """Returns the encodings (geometry.py), of which one may be an index into an array."""
    return where & np.uint64(ENCODING_MASK)


def are_patches(where: Words) -> Mask:
    """Returns which of the records are patches."""
    return np.asarray(where & np.uint64(PATCH_BITS) == np.uint64(PATCH_BITS), dtype=np.bool_)


def are_paged(where: Words) -> Mask:
    """Returns which of the records are in the tier."""
    return where >= np.uint64(PAGED)
