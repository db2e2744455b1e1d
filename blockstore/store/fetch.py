"""Getting records out of the tier for who wants to read blocks: what to ask for, asking, and keeping the answer.

`missing` and `keep` are for who is at the store; `read` is the slow part, and touches nothing but the tier.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

from blockstore.store.decode import Decoder
from blockstore.store.geometry import FIRST_ROW, ID_MASK, PAGED, PATCH_BITS, unpack_paged
from blockstore.store.pieces import Pieces
from blockstore.store.record_cache import RecordCache
from blockstore.store.rows import Rows
from blockstore.store.tiers import PieceMissing, Tier
from blockstore.store.volume import Volume

GAP_BYTES: Final = 16 << 10
"""Records of one piece that lie closer than this are read together: to ask twice takes longer than to read so much."""


class Blocks(NamedTuple):
    """Blocks of a volume that somebody needs to go on, some of which are in the tier."""

    volume: Volume
    first: int
    end: int


class Want(NamedTuple):
    """A record: its row's word, and the generation that its piece had."""

    where: int
    generation: int


class Fetched(NamedTuple):
    """Records that the tier has answered with, and those whose pieces it has not got."""

    records: list[tuple[Want, bytes]]
    missing: list[Want]


def missing(rows: Rows, cache: RecordCache, blocks: Blocks) -> list[Want]:
    """The records in the tier without which these blocks cannot be decoded, references included."""
    entries = blocks.volume.entries(blocks.first, blocks.end - blocks.first)
    return missing_of_rows(rows, cache, [entry & ID_MASK for entry in entries.tolist()])


def missing_of_rows(rows: Rows, cache: RecordCache, of_rows: Sequence[int]) -> list[Want]:
    """The same for rows."""
    found: dict[int, Want] = {}

    def look_at(row: int) -> int:
        where = rows.where.items[row] if FIRST_ROW <= row < rows.capacity else 0
        if where & PAGED and cache.get(where) is None and (generation := cache.generation(where)) >= 0:
            found[where] = Want(where, generation)
        return where

    for row in of_rows:
        if look_at(row) & PATCH_BITS == PATCH_BITS:
            look_at(rows.reference.items[row])
    return list(found.values())


def read(tier: Tier, wants: Sequence[Want]) -> Fetched:
    """Ask the tier for all of them. Raises TierAway."""
    fetched = Fetched([], [])
    together: list[Want] = []
    end = 0
    for want in sorted(wants, key=lambda want: want.where & _PLACE):
        piece, offset, size_bytes = unpack_paged(want.where)
        if together and (piece != unpack_paged(together[0].where)[0] or offset > end + GAP_BYTES):
            _read_together(tier, together, fetched)
            together = []
        together.append(want)
        end = offset + size_bytes
    if together:
        _read_together(tier, together, fetched)
    return fetched


def keep(decoder: Decoder, pieces: Pieces, fetched: Fetched) -> None:
    """Have them at hand for decoding, as far as they are still what was asked for. Records that the tier has lost are
    damaged from now on, for all who ask."""
    for (where, generation), record in fetched.records:
        decoder.cache.enter(where, generation, record)
        pieces.heat[unpack_paged(where)[0]] += 1
    for where, generation in fetched.missing:
        pieces.miss(unpack_paged(where)[0], generation)


def _read_together(tier: Tier, wants: Sequence[Want], fetched: Fetched) -> None:
    """Records of one piece, in the order of their places in it."""
    piece, start, _ = unpack_paged(wants[0].where)
    _, last, size_bytes = unpack_paged(wants[-1].where)
    try:
        data = tier.read(piece, start, last + size_bytes - start)
    except PieceMissing:
        fetched.missing.extend(wants)
        return
    for want in wants:
        _, offset, size_bytes = unpack_paged(want.where)
        fetched.records.append((want, data[offset - start : offset - start + size_bytes]))


_PLACE: Final = PAGED - 1
