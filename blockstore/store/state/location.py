"""The location word of a row: the only module that packs and unpacks it (geometry.py has its layout).

For one word at a time: compiled code takes many apart (plane/codec/layout.pxd). A *place* is what a record lies in: the
number of a segment, or PAGED_PLACE and the number of a piece.
"""

from __future__ import annotations

from typing import Final

from blockstore.store.state.geometry import (
    ENCODING_MASK,
    OFFSET_SHIFT,
    PAGED,
    PIECE_MASK,
    SEGMENT_BYTES,
    SIZE_MASK,
    SIZE_SHIFT,
    WHERE_SEGMENT_SHIFT,
)

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
