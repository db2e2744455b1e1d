"""Getting what is not here for who wants to read blocks: what to ask for, asking, and keeping the answer.

That is records in the tier, and blocks that are due from other hosts. `missing` and `keep` are for who is at the store;
`read` is the slow part, and touches nothing but the tier and the sources.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Protocol, TypeVar

from blockstore.store.arrivals import Arrivals, Due, content_digest
from blockstore.store.codec import DecodeError, decode
from blockstore.store.decode import Decoder
from blockstore.store.geometry import DUE, ENCODING_MASK, FIRST_ROW, ID_MASK, PAGED, PATCH_BITS, unpack_paged
from blockstore.store.pool import Pool
from blockstore.store.record_cache import RecordCache
from blockstore.store.rows import Rows
from blockstore.store.tiers import PieceMissing, Tier
from blockstore.store.volume import Volume

GAP_BYTES: Final = 16 << 10
"""Records of one piece that lie closer than this are read together: to ask twice takes longer than to read so much."""


class Reader(Protocol):
    """What a tier is, to those who read from it."""

    def read(self, piece: int, offset: int, length: int) -> bytes: ...


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
    """Records that the tier has answered with, and those whose pieces it has not got; blocks that have come, and those
    that their source has not got."""

    records: list[tuple[Want, bytes]]
    missing: list[Want]
    arrived: list[tuple[Due, bytes]]
    lost: list[Due]


Wants = list[Want | Due]


def none_fetched() -> Fetched:
    """To begin with."""
    return Fetched([], [], [], [])


def missing(rows: Rows, cache: RecordCache, arrivals: Arrivals, blocks: Blocks) -> Wants:
    """What is not here, and without which these blocks cannot be decoded, references included."""
    entries = blocks.volume.entries(blocks.first, blocks.end - blocks.first).tolist()
    wants: Wants = [*missing_of_rows(rows, cache, [entry & ID_MASK for entry in entries])]
    return wants + missing_arrivals(arrivals, [entry for entry in entries if entry & ID_MASK == DUE])


def missing_arrivals(arrivals: Arrivals, entries: Sequence[int]) -> list[Due]:
    """The blocks of these map entries, which are due, that are neither at hand nor known to be here or lost."""
    found = {}
    for entry in entries:
        due = arrivals.due(entry)
        if due is None or arrivals.known[due.place] or due.place in arrivals.lost:
            continue
        if arrivals.get(due.place) is None:
            found[due.place] = due
    return list(found.values())


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


def read(tier: Tier | None, sources: Mapping[int, Reader], wants: Sequence[Want | Due]) -> Fetched:
    """Ask the tier, and the sources by their numbers, for all of them. Raises TierAway."""
    fetched = none_fetched()
    records = [want for want in wants if isinstance(want, Want)]
    if records:
        assert tier is not None, "rows are paged, and there is no tier"
        _read_records(tier, records, fetched)
    dues = [want for want in wants if isinstance(want, Due)]
    for number in {due.source for due in dues}:
        of_one = [due for due in dues if due.source == number]
        if number in sources:
            _read_blocks(sources[number], of_one, fetched)
        else:
            fetched.lost.extend(of_one)
    return fetched


def keep(decoder: Decoder, pool: Pool, fetched: Fetched) -> None:
    """Have it all at hand for decoding, as far as it is still what was asked for. What the tier or a source has lost is
    damaged from now on, for all who ask."""
    for (where, generation), record in fetched.records:
        decoder.cache.enter(where, generation, record)
        pool.pieces.heat[unpack_paged(where)[0]] += 1
    for where, generation in fetched.missing:
        pool.pieces.miss(unpack_paged(where)[0], generation)
    for due, content in fetched.arrived:
        pool.arrivals.enter(due, content)
    for due in fetched.lost:
        pool.arrivals.miss(due)


def _read_records(tier: Tier, wants: Sequence[Want], fetched: Fetched) -> None:
    for together in _together(wants):
        for want, record in zip(together, _read_together(tier, together), strict=True):
            if record is None:
                fetched.missing.append(want)
            else:
                fetched.records.append((want, record))


def _read_blocks(source: Reader, dues: Sequence[Due], fetched: Fetched) -> None:
    """Decoded and checked: what another host wrote is trusted no further."""
    for together in _together(dues):
        for due, record in zip(together, _read_together(source, together), strict=True):
            try:
                content = b"" if record is None else decode(record, due.where & ENCODING_MASK, b"")
            except DecodeError:
                content = b""
            if content and content_digest(content) == due.digest:
                fetched.arrived.append((due, content))
            else:
                fetched.lost.append(due)


_Wanted = TypeVar("_Wanted", Want, Due)


def _together(wants: Sequence[_Wanted]) -> Iterator[list[_Wanted]]:
    """Those that are read in one go: of one piece and close to each other, in the order of their places in it."""
    together: list[_Wanted] = []
    end = 0
    for want in sorted(wants, key=lambda want: want.where & _PLACE):
        piece, offset, size_bytes = unpack_paged(want.where)
        if together and (piece != unpack_paged(together[0].where)[0] or offset > end + GAP_BYTES):
            yield together
            together = []
        together.append(want)
        end = offset + size_bytes
    if together:
        yield together


def _read_together(tier: Reader, wants: Sequence[_Wanted]) -> list[bytes | None]:
    """Records of one piece; None for all if the tier has not got it."""
    piece, start, _ = unpack_paged(wants[0].where)
    _, last, size_bytes = unpack_paged(wants[-1].where)
    try:
        data = tier.read(piece, start, last + size_bytes - start)
    except PieceMissing:
        return [None] * len(wants)
    records: list[bytes | None] = []
    for want in wants:
        _, offset, size_bytes = unpack_paged(want.where)
        records.append(data[offset - start : offset - start + size_bytes])
    return records


_PLACE: Final = PAGED - 1
