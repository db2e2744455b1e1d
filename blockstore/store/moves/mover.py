"""The long halves of paging: whole moves between the pool and the tier, in short visits to the store.

`store_lock` is held for each visit, of at most a millisecond or so, and never while the tier is asked. All methods are
for one thread, which alone puts and deletes pieces, and raise TierAway; what was not acknowledged by then stays where
it was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Final, NamedTuple

from blockstore.errors import OutOfRoom
from blockstore.plane.moves.choice import warmest
from blockstore.plane.moves.record_batch import RecordBatch
from blockstore.store.moves.paging import BACK_RECORDS, Paging
from blockstore.store.moves.pieces import word_of
from blockstore.store.state.location import PAGED_PLACE, piece_of
from blockstore.store.state.pool import Pool
from blockstore.store.tiers import PieceMissing, Tier, TierAway

VICTIMS: Final = 16
"""Segments that are looked for together: looking through all rows for one costs as much as for all of them."""


class MoverFigures(NamedTuple):
    """Pieces that are needed, their bytes, and how many of them the tier has lost; bytes that went out and came back
    since the store was opened."""

    pieces: int
    bytes: int
    missing_pieces: int
    out_bytes: int
    back_bytes: int


class Mover:
    """Of one store and its tier."""

    def __init__(self, paging: Paging, pool: Pool, tier: Tier, store_lock: AbstractContextManager[object]) -> None:
        self._paging = paging
        self._pool = pool
        self._pieces = pool.pieces
        self._tier = tier
        self._store_lock = store_lock

    @property
    def limit_bytes(self) -> int:
        """The most that the pool takes."""
        return self._pool.limit_bytes

    def free_bytes(self) -> int:
        """What can still be written to the pool."""
        with self._store_lock:
            return self._pool.free_bytes

    def figures(self) -> MoverFigures:
        """What there is, and what was moved. To be asked at the store."""
        pieces, paging = self._pieces, self._paging
        return MoverFigures(pieces.count, pieces.stored_bytes, len(pieces.missing), paging.out_bytes, paging.back_bytes)

    @property
    def has_doomed(self) -> bool:
        """Is there something to `sweep`?"""
        return bool(self._pieces.doomed)

    @property
    def has_pieces(self) -> bool:
        """Is anything needed of the tier?"""
        return bool(self._pieces.count)

    def read_a_byte(self) -> bool:
        """Asks the tier for one byte; False if it has nothing of ours."""
        piece = next(iter(self._pieces.numbers()), None)
        if piece is None:
            return False
        with suppress(PieceMissing):
            self._tier.read(piece, 0, 1)
        return True

    def warm(self, most: int, from_records: int) -> list[int]:
        """The pieces of which most was read since this was asked before, at least so many records of each."""
        with self._store_lock:
            return warmest(self._pieces.heat, from_records, most)

    def out(self, segments: int = VICTIMS) -> bool:
        """So many of the coldest segments go out, a piece at a time; False when there was none."""
        with self._store_lock:
            coldest = self._paging.coldest(min(segments, VICTIMS))
        return self._move_to_tier(coldest, {})

    def rewrite(self) -> bool:
        """Sparse pieces become one; False when that is not worth it."""
        with self._store_lock:
            places = self._paging.sparse()
        contents = {place: data for place in places if (data := self._content(piece_of(place))) is not None}
        return self._move_to_tier(list(contents), contents)

    def back(self, piece: int) -> bool:
        """All that is live of a piece comes back into the pool; False, and not all of it did, without room or piece."""
        data = self._content(piece)
        if data is None:
            return False
        place = PAGED_PLACE + piece
        self._look_for([place])
        while self._paging.has_more:
            with self._store_lock:
                batch = self._paging.pick(BACK_RECORDS)
                batch.gather({place: data})
                if not self._paging.publish_back(batch):
                    return False
        return True

    def sweep(self, most: int | None = None) -> None:
        """Delete what nobody needs from the tier."""
        for piece in self._pieces.doomed[:most]:
            self._tier.delete(piece)
            with self._store_lock:
                self._pieces.deleted(piece)

    def reconcile(self) -> int:
        """At start: delete pieces of which the table knows nothing, as a killed process leaves them. Returns how many
        the tier has lost; what was in these is damaged from now on."""
        there = set(self._tier.pieces())
        with self._store_lock:
            needed = set(self._pieces.numbers())
        for piece in sorted(there - needed):
            self._tier.delete(piece)
        lost = needed - there
        with self._store_lock:
            for piece in lost:
                self._pieces.miss(piece, int(self._pieces.generation[piece]))
        return len(lost)

    def _move_to_tier(self, places: Sequence[int], contents: Mapping[int, bytes]) -> bool:
        if not places:
            return False
        self._look_for(places)
        moved = False
        while self._paging.has_more:
            with self._store_lock:
                batch = self._paging.pick()
            batch.gather(contents)  # without the lock: up to a MiB is copied
            if len(batch):
                self._put(batch)
                moved = True
        return moved

    def _look_for(self, places: Sequence[int]) -> None:
        with self._store_lock:
            self._paging.begin(places)
        more = True
        while more:
            with self._store_lock:
                more = self._paging.scan()
        self._paging.sort()

    def _put(self, batch: RecordBatch) -> None:
        with self._store_lock:
            try:
                piece = self._pieces.reserve()
            except OutOfRoom as error:
                raise TierAway(f"there is no room to note a piece of the tier: {error}") from None
        try:
            self._tier.put(piece, batch.data)
        except BaseException:
            with self._store_lock:
                self._pieces.abandon(piece)
            raise
        word = word_of(batch.data)
        with self._store_lock:
            self._paging.publish(batch, piece, word)

    def _content(self, piece: int) -> bytes | None:
        """The whole piece; None if it is not needed any more, or not what was put there, which whoever reads its
        blocks is told."""
        with self._store_lock:
            length, generation = self._pieces.length(piece), int(self._pieces.generation[piece])
        if not length or piece in self._pieces.unfit:
            return None
        try:
            data = self._tier.read(piece, 0, length)
        except PieceMissing:
            with self._store_lock:
                self._pieces.miss(piece, generation)
            return None
        word = word_of(data)
        with self._store_lock:
            if self._pieces.generation[piece] != generation:
                return None
            if not self._pieces.is_whole(piece, word):
                self._pieces.distrust(piece)
                return None
        return data
