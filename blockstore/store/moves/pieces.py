"""The pieces of the pool that are in the tier: which there are, and what of each is still needed.

The table `pieces` has a word for each piece number, 0 where there is none: bits 0..20 the size in bytes, 21..63 the
upper bits of the digest of the whole. It is part of the state; the rows that point into a piece are the truth about
what of it is live. A word is stored before any row points there, and after the tier has acknowledged the piece.

A piece that no row needs is *doomed*: its number is not given away again before the tier has deleted it. Written by
paging (enter, abandon), release (through Pool.forget), whoever deletes (deleted), and whoever finds that the tier has
lost one (miss, distrust).
"""

from __future__ import annotations

from array import array
from heapq import heappop, heappush
from typing import TYPE_CHECKING, Final

from blockstore.errors import OutOfRoom
from blockstore.plane.codec.codec import digest
from blockstore.plane.tables.piece_table import (
    count_words,
    figures_of,
    forget_words,
    lengths_of,
    numbers_of,
    unneeded,
)
from blockstore.store.codec import Buffer
from blockstore.store.state.home import Home
from blockstore.store.state.mapping import MAXIMUM_PIECES
from blockstore.store.state.shared_array import SharedArray

if TYPE_CHECKING:
    from blockstore.plane.buffers import U64s

_FIRST_CAPACITY: Final = 4096
_SPARE_NUMBERS: Final = 64
"""So many numbers are there before they are needed: the file system under the state may be full just when paging is
what makes room."""

_LENGTH_MASK: Final = (1 << 21) - 1


class Pieces:
    """By number: the table, live bytes, generation, and records read since somebody looked (`heat`)."""

    def __init__(self, home: Home) -> None:
        self._table = SharedArray(home, "pieces", "Q", _FIRST_CAPACITY, most=MAXIMUM_PIECES)
        self.live_bytes = _zeros(self._table.capacity)
        self.generation = _zeros(self._table.capacity)
        """Another number each time that a piece number comes to mean something else."""
        self.heat = _zeros(self._table.capacity)
        self.missing: set[int] = set()
        """The tier answers, and has not got them: nobody need ask for them again."""
        self.unfit: set[int] = set()
        """These, and those that are not what was put: no longer moved as a whole."""
        self.doomed: list[int] = []
        """To be deleted from the tier."""
        self._next = max(self.numbers(), default=-1) + 1
        self._free = numbers_of(self._table.items[: self._next], used=False)
        """A heap: low numbers first, so that a file stays short."""

    @property
    def size_bytes(self) -> int:
        """Memory of the table."""
        return self._table.size_bytes

    @property
    def count(self) -> int:
        """Pieces that are needed."""
        return figures_of(self._table.items)[0]

    @property
    def stored_bytes(self) -> int:
        """Of all pieces that are needed, with what nobody needs of them."""
        return figures_of(self._table.items)[1]

    def lengths(self) -> array[int]:
        """The size in bytes of each piece; 0 where there is none."""
        return lengths_of(self._table.items)

    def length(self, piece: int) -> int:
        """The size in bytes; 0 if there is no such piece."""
        return self._table.items[piece] & _LENGTH_MASK if piece < self._table.capacity else 0

    def is_whole(self, piece: int, word: int) -> bool:
        """Is what has this word what was given to the tier?"""
        return self._table.items[piece] == word

    def numbers(self) -> list[int]:
        """Of all pieces that are needed."""
        return numbers_of(self._table.items)

    def adopt(self) -> None:
        """At start, when `live_bytes` is what the rows' paged words say: end pieces that no row needs."""
        for piece in unneeded(self._table.items, self.live_bytes):
            self._end(piece)

    def reserve(self) -> int:
        """A number for a new piece, to be given to `enter` or `abandon`. Raises OutOfRoom."""
        if self._free:
            return heappop(self._free)
        if self._next + _SPARE_NUMBERS > self._table.capacity:
            try:
                self._grow()
            except OutOfRoom:
                if self._next >= self._table.capacity:
                    raise
        self._next += 1
        return self._next - 1

    def enter(self, piece: int, word: int) -> None:
        """The tier has what has this word. Rows are pointed at it in the same visit to the store."""
        self._table.items[piece] = word
        self.generation[piece] += 1
        self.heat[piece] = 0

    def abandon(self, piece: int) -> None:
        """Nothing will be entered; the tier may have some of it."""
        self.doomed.append(piece)

    def add(self, paged: U64s) -> None:
        """Rows have these words from now on."""
        count_words(self.live_bytes, paged)

    def forget(self, paged: U64s) -> None:
        """Rows had these words. That of a damaged row may name a piece that there cannot be."""
        for piece in forget_words(self.live_bytes, paged):
            if self.length(piece):
                self._end(piece)

    def miss(self, piece: int, generation: int) -> None:
        """The tier has not got it, if it is still the one that had this generation."""
        if self.generation[piece] == generation and self.length(piece):
            self.missing.add(piece)
            self.unfit.add(piece)

    def distrust(self, piece: int) -> None:
        """What the tier has is not what was put there. Whoever reads a record finds out what that means for it."""
        self.unfit.add(piece)

    def deleted(self, piece: int) -> None:
        """The tier has it no more: the number may be used again."""
        self.doomed.remove(piece)
        heappush(self._free, piece)

    def close(self) -> None:
        self._table.close()

    def _end(self, piece: int) -> None:
        self._table.items[piece] = 0
        self.generation[piece] += 1
        self.missing.discard(piece)
        self.unfit.discard(piece)
        self.doomed.append(piece)

    def _grow(self) -> None:
        """Raises OutOfRoom, and then nothing has changed: the table grows last, for its length says what numbers there
        are."""
        more = self._table.capacity
        try:
            live_bytes, generation, heat = (
                self.live_bytes + _zeros(more),
                self.generation + _zeros(more),
                self.heat + _zeros(more),
            )
        except MemoryError:
            raise OutOfRoom(f"there is no memory to count {more} more pieces of the tier") from None
        self._table.grow(2 * self._table.capacity)
        self.live_bytes, self.generation, self.heat = live_bytes, generation, heat


def _zeros(count: int) -> array[int]:
    return array("q", [0]) * count


def word_of(data: Buffer) -> int:
    """Returns the word of a piece with this content. Hashes all of it, which takes 0.1 ms for a MiB or more: not to be
    done at the store."""
    return digest(data, 0) & ~_LENGTH_MASK | memoryview(data).nbytes
