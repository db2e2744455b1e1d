"""The long halves of paging: whole moves between the pool and the tier, in short visits to the store.

`door` is entered for each visit, of at most a millisecond or so, and never while the tier is asked. All methods are for
one thread, which alone puts and deletes pieces, and raise TierAway; what was not acknowledged by then stays where it
was.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Final

from blockstore.errors import OutOfRoom
from blockstore.store.geometry import PIECE_MASK
from blockstore.store.paging import BACK_RECORDS, PAGED_PLACE, Batch, Paging
from blockstore.store.pool import Pool
from blockstore.store.tiers import PieceMissing, Tier, TierAway

VICTIMS: Final = 16
"""Segments that are looked for together: looking through all rows for one costs as much as for all of them."""


class Mover:
    """Of one store and its tier."""

    def __init__(self, paging: Paging, pool: Pool, tier: Tier, door: AbstractContextManager[object]) -> None:
        self._paging = paging
        self._pool = pool
        self._pieces = pool.pieces
        self._tier = tier
        self._door = door

    def out(self, segments: int = VICTIMS) -> bool:
        """So many of the coldest segments go out, a piece at a time; False when there was none."""
        with self._door:
            coldest = self._paging.coldest(min(segments, VICTIMS))
        return self._move_to_tier(coldest, {})

    def rewrite(self) -> bool:
        """Sparse pieces become one; False when that is not worth it."""
        with self._door:
            places = self._paging.sparse()
        contents = {place: data for place in places if (data := self._content(place & PIECE_MASK)) is not None}
        return self._move_to_tier(list(contents), contents)

    def back(self, piece: int) -> bool:
        """All that is live of a piece comes back into the pool; False, and not all of it did, without room or piece."""
        data = self._content(piece)
        if data is None:
            return False
        place = PAGED_PLACE + piece
        self._look_for([place])
        while True:
            with self._door:
                batch = self._paging.pick({place: data}, most_records=BACK_RECORDS)
                if not len(batch.rows):
                    return True
                if not self._paging.publish_back(batch):
                    return False

    def sweep(self, most: int | None = None) -> None:
        """Delete what nobody needs from the tier."""
        for piece in self._pieces.doomed[:most]:
            self._tier.delete(piece)
            with self._door:
                self._pieces.deleted(piece)

    def reconcile(self) -> list[int]:
        """At start: delete pieces of which the table knows nothing, as a killed process leaves them; those that the
        table has and the tier has not."""
        there = set(self._tier.pieces())
        with self._door:
            needed = set(self._pieces.numbers())
        for piece in sorted(there - needed):
            self._tier.delete(piece)
        return sorted(needed - there)

    def _move_to_tier(self, places: Sequence[int], contents: Mapping[int, bytes]) -> bool:
        if not places:
            return False
        self._look_for(places)
        moved = False
        while True:
            with self._door:
                batch = self._paging.pick(contents)
            if not len(batch.rows):
                return moved
            self._put(batch)
            moved = True

    def _look_for(self, places: Sequence[int]) -> None:
        with self._door:
            self._paging.begin(places)
        more = True
        while more:
            with self._door:
                more = self._paging.scan()

    def _put(self, batch: Batch) -> None:
        with self._door:
            try:
                piece = self._pieces.reserve()
            except OutOfRoom as error:
                raise TierAway(f"there is no room to note a piece of the tier: {error}") from None
        try:
            self._tier.put(piece, batch.data)
        except BaseException:
            with self._door:
                self._pieces.abandon(piece)
            raise
        with self._door:
            self._paging.publish(batch, piece)

    def _content(self, piece: int) -> bytes | None:
        """The whole piece; None if it is not needed any more, or not what was put there, which whoever reads its
        blocks is told."""
        with self._door:
            length, generation = self._pieces.length(piece), int(self._pieces.generation[piece])
        if not length or piece in self._pieces.unfit:
            return None
        try:
            data = self._tier.read(piece, 0, length)
        except PieceMissing:
            with self._door:
                self._pieces.miss(piece, generation)
            return None
        with self._door:
            if self._pieces.generation[piece] != generation:
                return None
            if not self._pieces.is_whole(piece, data):
                self._pieces.distrust(piece)
                return None
        return data
