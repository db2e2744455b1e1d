"""Fetching what is not here: records from the tier, and blocks that are due from other hosts.

The slow part, which touches nothing but the tier and the sources: `Store.missing` says what to ask for, and
`Store.keep` takes the answers (wants.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final, NamedTuple, Protocol, TypeVar

from blockstore.plane.codec.codec import DecodeError
from blockstore.store.codec import CODEC
from blockstore.store.remote.arrivals import Due, content_digest
from blockstore.store.state.geometry import ENCODING_MASK, PAGED
from blockstore.store.state.location import unpack_paged
from blockstore.store.tiers import PieceMissing, Tier

GAP_BYTES: Final = 16 << 10
"""Records of one piece that lie closer than this are read together: to ask twice takes longer than to read so much."""


class Reader(Protocol):
    """What a tier is, to those who read from it."""

    def read(self, piece: int, offset: int, length: int) -> bytes: ...


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
                content = b"" if record is None else CODEC.decode(record, due.where & ENCODING_MASK)
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
