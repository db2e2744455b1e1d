"""Moving records between the pool and the tier, some hundred at a time.

    out       of the coldest segments into a piece, when the pool nears its limit
    rewrite   of sparse pieces into one
    back      of a piece that is read often into the pool, when there is room

Always in this order: rows are picked (`pick`, at the store), their records are gathered and the tier has acknowledged
the piece (outside, for both take time), then `publish`: the table of pieces, the words of those rows that are still
what was picked, and only then the old records are given up. A process killed at any instruction leaves each row at a
record that is there; a piece that no row points at is deleted at the next start (daemon/tiers/pager.py).

A segment is as young as its last record, or as the last time that a read of it was seen (`saw`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from blockstore.errors import OutOfRoom
from blockstore.plane.moves.choice import coldest, sparse
from blockstore.plane.moves.placed_rows import PlacedRows
from blockstore.plane.moves.record_batch import RecordBatch
from blockstore.plane.tables.tables import Tables
from blockstore.store.state.geometry import SEGMENT_BYTES
from blockstore.store.state.location import PAGED_PLACE, place_of
from blockstore.store.state.pool import COMPACTION_RESERVE_SEGMENTS, Pool
from blockstore.store.state.rows import Rows

PIECE_BYTES: Final = SEGMENT_BYTES
"""The most that a piece has: large enough for any disk to write it in one go."""

ROWS_A_STEP: Final = 1 << 16
"""Rows looked at in one visit to the store, in some 0.05 ms."""

OUT_RECORDS: Final = 2048
"""Records that a piece has at most: picking and publishing them take some 0.03 ms each, in which writes wait. Those of
an ordinary guest fill a piece with half as many; of blocks that are almost nothing 35,000 would fit."""

BACK_RECORDS: Final = 128
"""Records that come back in one visit, in about 0.1 ms."""

SPARSE_SHARE: Final = 0.5
"""A piece of which less than this is live is worth rewriting."""


class Paging:
    """Of one store: has the plane write `where` of rows, the pool and its pieces. One mover at a time."""

    def __init__(self, rows: Rows, pool: Pool, tables: Tables) -> None:
        self._rows = rows
        self._pool = pool
        self._placed = PlacedRows(tables)
        self.out_bytes = self.back_bytes = 0
        """Moved since the store was opened."""

    def saw(self, where: int) -> None:
        """A record at this word was read."""
        segments, place = self._pool.segments, place_of(where)
        if place < segments.count:
            segments.read_at[place] = self._pool.now

    def coldest(self, most: int) -> list[int]:
        """So many places of full segments, the coldest first."""
        segments = self._pool.segments
        return coldest(self._pool.log, segments.has_memory, segments.is_retired, segments.read_at, most)

    def sparse(self) -> list[int]:
        """Places of pieces that fit into one and are worth it; none or at least two."""
        pieces = self._pool.pieces
        found = sparse(pieces.lengths(), pieces.live_bytes, pieces.unfit, SPARSE_SHARE, PIECE_BYTES)
        return [PAGED_PLACE + piece for piece in found] if len(found) > 1 else []

    def begin(self, places: Sequence[int]) -> None:
        """The records in these places are to be moved, in this order."""
        self._placed.begin(places)

    def scan(self) -> bool:
        """Look for their rows, some at a time; False when all were looked at."""
        return self._placed.scan(self._rows.next_row, ROWS_A_STEP)

    def sort(self) -> None:
        """Put the rows that were found in order. Needs no lock."""
        self._placed.sort()

    @property
    def has_more(self) -> bool:
        """Is there something left to pick?"""
        return self._placed.left > 0

    def pick(self, most_records: int = OUT_RECORDS) -> RecordBatch:
        """The next records, as many as fit; none where those that were looked for have gone elsewhere. Their bytes can
        be gathered away from the store."""
        pool = self._pool
        return RecordBatch(
            pool.log, pool.epochs, self._placed, pool.pieces.generation, pool.mended, most_records, PIECE_BYTES
        )

    def publish(self, batch: RecordBatch, piece: int, word: int) -> None:
        """The tier has the batch's data, which has this word, as this piece: let the rows that have not changed have
        it."""
        pieces, size_bytes = self._pool.pieces, self._keep_unchanged(batch)
        if not size_bytes:
            pieces.abandon(piece)
            return
        pieces.enter(piece, word)
        pieces.live_bytes[piece] += size_bytes
        batch.publish(piece)
        self._pool.take_back()
        self.out_bytes += size_bytes

    def publish_back(self, batch: RecordBatch) -> bool:
        """Let the rows that have not changed have these records in the pool; False, and nothing is done, when there is
        no room."""
        pool, size_bytes = self._pool, self._keep_unchanged(batch)
        if not size_bytes:
            return True
        try:
            pool.make_room_for(size_bytes, COMPACTION_RESERVE_SEGMENTS)
            if not batch.publish_back():
                raise pool.append_error()
        except OutOfRoom:
            return False
        finally:
            pool.take_back()
        self.back_bytes += size_bytes
        return True

    def _keep_unchanged(self, batch: RecordBatch) -> int:
        """Keeps the rows that are as they were picked; returns how many bytes their records are. A record never changes
        while its place has one generation, but where damage was mended; that is so rare that all is dropped then."""
        self._pool.take_back()
        batch.drop_changed(self._pool.pieces.generation, self._pool.mended)
        return batch.size_bytes
