"""Moving records between the pool and the tier, some hundred at a time.

    out       of the coldest segments into a piece, when the pool nears its limit
    rewrite   of sparse pieces into one
    back      of a piece that is read often into the pool, when there is room

Always in this order: the records are gathered (`pick`, at the store), the tier has acknowledged the piece (outside, for
it takes time), then `publish`: the table of pieces, the words of those rows that are still what was gathered, and only
then the old records are given up. A process killed at any instruction leaves each row at a record that is there; a
piece that no row points at is deleted at the next start (daemon/tiers/pager.py).

A segment is as young as its last record, or as the last time that a read of it was seen (`saw`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from blockstore.errors import OutOfRoom
from blockstore.store.state.geometry import (
    SEGMENT_BYTES,
)
from blockstore.store.state.location import (
    PAGED_PLACE,
    all_moved,
    all_paged,
    offset_of,
    pieces_of,
    place_of,
    places_of,
    size_of,
    sizes_of,
    start_of,
)
from blockstore.store.state.pool import Pool
from blockstore.store.state.rows import Rows

PIECE_BYTES: Final = SEGMENT_BYTES
"""The most that a piece has: large enough for any disk to write it in one go."""

ROWS_A_STEP: Final = 1 << 16
"""Rows looked at in one visit to the store, in about a third of a millisecond."""

OUT_RECORDS: Final = 2048
"""Records that a piece has at most: picking and publishing them take 2 ms each, in which faults wait. Those of an
ordinary guest fill a piece with half as many; of blocks that are almost nothing 35,000 would fit, and take 50 ms."""

BACK_RECORDS: Final = 128
"""Records that come back in one visit, in about 0.3 ms."""

SPARSE_SHARE: Final = 0.5
"""A piece of which less than this is live is worth rewriting."""


class Batch(NamedTuple):
    """Rows, their words when they were picked, what must still be so when they are published (the generation of each
    place, and how many records were mended), and their records, one behind the other."""

    rows: npt.NDArray[np.int64]
    before: npt.NDArray[np.uint64]
    generations: npt.NDArray[np.int64]
    mended: int
    data: bytes

    @property
    def sizes(self) -> npt.NDArray[np.int64]:
        return sizes_of(self.before)


class Paging:
    """Of one store: writes `where` of rows, the pool and its pieces. One mover at a time."""

    def __init__(self, rows: Rows, pool: Pool) -> None:
        self._rows = rows
        self._pool = pool
        self._places = np.empty(0, dtype=np.int64)
        self._scanned = 0
        self._found: list[npt.NDArray[np.int64]] = []
        self._pending = np.empty(0, dtype=np.int64)
        self.out_bytes = self.back_bytes = 0
        """Moved since the store was opened."""

    def saw(self, where: int) -> None:
        """A record at this word was read."""
        segments, place = self._pool.segments, place_of(where)
        if place < segments.count:
            segments.read_at[place] = self._pool.now

    def coldest(self, most: int) -> list[int]:
        """So many places of full segments, the coldest first."""
        segments, full = self._pool.segments, np.flatnonzero(self._pool.full_segments())
        age = np.maximum(np.asarray(segments.generation)[full], np.asarray(segments.read_at)[full])
        return full[np.argsort(age, kind="stable")][:most].tolist()  # type: ignore[no-any-return]

    def sparse(self) -> list[int]:
        """Places of pieces that fit into one and are worth it; none or at least two."""
        pieces = self._pool.pieces
        live, lengths = np.asarray(pieces.live_bytes), np.asarray(pieces.lengths())
        found = np.flatnonzero((lengths > 0) & (live < SPARSE_SHARE * lengths))
        if pieces.unfit:
            found = found[~np.isin(found, list(pieces.unfit))]
        found = found[np.argsort(live[found], kind="stable")]
        count = int(np.searchsorted(np.cumsum(live[found]), PIECE_BYTES, side="right"))
        return [PAGED_PLACE + piece for piece in found[:count].tolist()] if count > 1 else []

    def begin(self, places: Sequence[int]) -> None:
        """The records in these places are to be moved, in this order."""
        self._places = np.array(places, dtype=np.int64)
        self._scanned, self._found = 0, []
        self._pending = np.empty(0, dtype=np.int64)

    def scan(self) -> bool:
        """Look for their rows, some at a time; False when all were looked at."""
        end = min(self._scanned + ROWS_A_STEP, self._rows.next_row)
        self._found.append(np.flatnonzero(self._are_there(self._rows.where.array[self._scanned : end])) + self._scanned)
        self._scanned = end
        if end < self._rows.next_row:
            return True
        rows = np.concatenate(self._found)
        where = self._rows.where.array[rows]
        by_number = np.argsort(self._places)
        ranked = np.searchsorted(self._places, places_of(where), sorter=by_number)
        order = by_number[np.minimum(ranked, len(by_number) - 1)]  # of what has gone elsewhere meanwhile, any
        self._pending = rows[np.lexsort((where, order))]
        return False

    def pick(self, contents: Mapping[int, bytes], most_records: int = OUT_RECORDS) -> Batch:
        """The next records, as many as fit; `contents` are those of pieces, by place. Empty at the end."""
        rows = self._pending[:0]
        while len(self._pending) and not len(rows):  # those that were looked for may have gone elsewhere
            rows, self._pending = self._pending[:most_records], self._pending[most_records:]
            rows = rows[self._are_there(self._rows.where.array[rows])]
        before = self._rows.where.array[rows]
        count = int(np.searchsorted(np.cumsum(sizes_of(before)), PIECE_BYTES, side="right"))
        self._pending = np.concatenate((rows[count:], self._pending))
        rows, before = rows[:count], before[:count]
        data = b"".join([self._record(word, contents) for word in before.tolist()])
        return Batch(rows, before, self._generations(before), self._pool.mended, data)

    def publish(self, batch: Batch, piece: int) -> None:
        """The tier has the batch's data as this piece: let the rows that have not changed have it."""
        pieces, sizes = self._pool.pieces, batch.sizes
        still = self._still(batch)
        if not still.any():
            pieces.abandon(piece)
            return
        words = all_paged(batch.before, piece, np.cumsum(sizes) - sizes)
        pieces.enter(piece, batch.data)
        pieces.add(words[still])
        self._rows.where.array[batch.rows[still]] = words[still]
        self._pool.forget(batch.before[still])
        self.out_bytes += int(sizes[still].sum())

    def publish_back(self, batch: Batch) -> bool:
        """Let the rows that have not changed have these records in the pool; False, and nothing is done, when there is
        no room."""
        still = np.flatnonzero(self._still(batch))
        if not len(still):
            return True
        sizes, ends, data = batch.sizes[still], np.cumsum(batch.sizes)[still], memoryview(batch.data)
        records = [data[end - size : end] for size, end in zip(sizes.tolist(), ends.tolist(), strict=True)]
        try:
            offsets = np.asarray(self._pool.append(records, sizes.tolist()))
        except OutOfRoom:
            return False
        self._rows.where.array[batch.rows[still]] = all_moved(batch.before[still], offsets)
        self._pool.forget(batch.before[still])
        self.back_bytes += int(sizes.sum())
        return True

    def _are_there(self, where: npt.NDArray[np.uint64]) -> npt.NDArray[np.bool_]:
        """Which of these words name records in the places that were given? A free row's word is 0, as is segment 0."""
        return np.isin(places_of(where), self._places) & (where != 0)  # type: ignore[no-any-return]

    def _still(self, batch: Batch) -> npt.NDArray[np.bool_]:
        """Which rows are as they were picked? A record never changes while its place has one generation, but where
        damage was mended; that is so rare that all is dropped then."""
        if batch.mended != self._pool.mended:
            return np.zeros(len(batch.rows), dtype=np.bool_)
        now = self._rows.where.array[batch.rows]
        return (now == batch.before) & (self._generations(batch.before) == batch.generations)  # type: ignore[no-any-return]

    def _generations(self, where: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
        places = places_of(where)
        paged = places >= PAGED_PLACE
        generations = np.empty(len(places), dtype=np.int64)
        generations[~paged] = np.asarray(self._pool.segments.generation)[places[~paged]]
        generations[paged] = np.asarray(self._pool.pieces.generation)[pieces_of(places[paged])]
        return generations

    def _record(self, where: int, contents: Mapping[int, bytes]) -> bytes | memoryview:
        place, size_bytes = place_of(where), size_of(where)
        if place < PAGED_PLACE:
            offset = offset_of(where)
            return self._pool.view[offset : offset + size_bytes]
        start = start_of(where)
        return contents[place][start : start + size_bytes]
