"""Records that were fetched from the tier a moment ago, for whoever asked for them to decode.

Not a cache for speed: what is read often is resident, and what is read often enough comes back into the pool.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from blockstore.store.moves.pieces import Pieces
from blockstore.store.state.location import unpack_paged

MAXIMUM_RECORDS: Final = 1024
"""Twice what the largest read asks for, 256 blocks and a reference of each: 4 MiB at most."""


class RecordCache:
    """By the row's word. A record is only given out while its piece is still the one that it was fetched from."""

    def __init__(self, pieces: Pieces, most_records: int = MAXIMUM_RECORDS) -> None:
        self._pieces = pieces
        self._most_records = most_records
        self._records: OrderedDict[int, tuple[int, bytes]] = OrderedDict()

    def get(self, where: int) -> bytes | None:
        """The record at a paged word, if it is here."""
        found = self._records.get(where)
        if found is None or found[0] != self.generation(where):
            return None
        self._records.move_to_end(where)
        return found[1]

    def enter(self, where: int, generation: int, record: bytes) -> None:
        """This was read at that word while the piece had this generation."""
        if generation < 0 or generation != self.generation(where):
            return
        self._records[where] = generation, record
        self._records.move_to_end(where)
        if len(self._records) > self._most_records:
            self._records.popitem(last=False)

    def clear(self) -> None:
        """Some of it may be damaged."""
        self._records.clear()

    def generation(self, where: int) -> int:
        """Of the piece that a paged word names; -1 if there is no such piece, not so much of it, or not any more."""
        piece, offset, size_bytes = unpack_paged(where)
        if offset + size_bytes > self._pieces.length(piece) or piece in self._pieces.missing:
            return -1
        return int(self._pieces.generation[piece])
