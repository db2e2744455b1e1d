"""Blocks that are to arrive from another host's store: what is known of each, until it is here.

A map entry of a block that is *due* has its place in the table `arrivals`: which source, where in which of its pieces,
and a 128-bit BLAKE2b of the content, by which alone it is trusted. The table is written before any map entry names a
place in it, and goes when no map has one any more; between these it only grows.

Reading a due block changes nothing: its content comes from the source, or is decoded from a block that the store has,
and lies in a small cache for a moment. daemon/tiers/arriving.py fills the maps and makes it a block like all others.
"""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from blockstore.errors import OutOfRoom
from blockstore.store.codec import Buffer
from blockstore.store.state.distinct import distinct
from blockstore.store.state.geometry import CHECK_SHIFT, DUE, DUE_CHECK, ID_MASK, MAXIMUM_DUE
from blockstore.store.state.home import Home
from blockstore.store.state.shared_array import SharedArray

NAME: Final = "arrivals"

CACHED_BLOCKS: Final = 1024
"""4 MiB; the largest read asks for 256."""

DIGEST_BYTES: Final = 16
WORDS: Final = 4
"""Of an arrival: its place as a paged word of a row has it, but for the bit; two of the digest; the source's number."""

_FIRST_CAPACITY: Final = 128


class Due(NamedTuple):
    """One that is wanted now. `generation` tells whether `place` still means the same."""

    place: int
    generation: int
    source: int
    where: int
    digest: bytes


class Arrivals:
    """Of one store."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._table = SharedArray(home, NAME, "Q", _FIRST_CAPACITY * WORDS, most=MAXIMUM_DUE * WORDS)
        used = np.flatnonzero(self._table.array)
        self.count = int(used[-1]) // WORDS + 1 if len(used) else 0
        self.generation = 0
        """Another number each time that all arrivals are forgotten."""
        self.known = np.zeros(self.count, dtype=np.uint64)
        """By place: a map entry of the same content in this store, as far as somebody has seen one; it may have come to
        mean something else."""
        self.lost: set[int] = set()
        """Places of which the source has not got what it should."""
        self._contents: OrderedDict[int, bytes] = OrderedDict()

    @property
    def size_bytes(self) -> int:
        """Memory of the table."""
        return self._table.size_bytes + self.known.nbytes

    @property
    def sources(self) -> set[int]:
        """The numbers of all that are in the table."""
        return set(distinct(self._table.array[WORDS - 1 : self.count * WORDS : WORDS]).tolist())

    def add(self, source: int, where: npt.NDArray[np.uint64], digests: npt.NDArray[np.uint64]) -> int:
        """So many more, of a source with a number other than 0; `digests` has two words for each. The place of the
        first; the others follow. Raises OutOfRoom, and nothing is changed."""
        first, count = self.count, len(where)
        if first + count > MAXIMUM_DUE:
            raise OutOfRoom(f"a store can wait for {MAXIMUM_DUE} blocks of other hosts; try again when more have come")
        self._table.grow((first + count) * WORDS)
        rows = self._table.array[: (first + count) * WORDS].reshape(-1, WORDS)[first:]
        rows[:, 3] = source  # first: whoever is killed here must leave no arrival of a source that nobody knows
        rows[:, 0], rows[:, 1:3] = where, digests.reshape(-1, 2)
        self.known = np.concatenate((self.known, np.zeros(count, dtype=np.uint64)))
        self.count += count
        return first

    def due(self, entry: int) -> Due | None:
        """What a map entry stands for; None for one that was damaged."""
        place = place_of(entry)
        if place is None or place >= self.count:
            return None
        where, one, two, source = self._table.items[place * WORDS : (place + 1) * WORDS]
        return Due(place, self.generation, source, where, one.to_bytes(8, "little") + two.to_bytes(8, "little"))

    def get(self, place: int) -> bytes | None:
        """The content, if it is at hand."""
        return self._contents.get(place)

    def enter(self, due: Due, content: bytes) -> None:
        """The content has come, and was checked."""
        if due.generation != self.generation:
            return
        self._contents[due.place] = content
        self._contents.move_to_end(due.place)
        if len(self._contents) > CACHED_BLOCKS:
            self._contents.popitem(last=False)

    def miss(self, due: Due) -> None:
        """The source has not got it, or something else."""
        if due.generation == self.generation:
            self.lost.add(due.place)

    def settled(self, entry: int, now: int) -> None:
        """The block of a due entry is here, with this one."""
        place = place_of(entry)
        if place is not None and place < self.count:
            self.known[place] = now

    def forget_all(self) -> None:
        """No map entry is due: give the memory back."""
        self._home.remove(NAME)
        table, self._table = (
            self._table,
            SharedArray(self._home, NAME, "Q", _FIRST_CAPACITY * WORDS, most=MAXIMUM_DUE * WORDS),
        )
        table.close()
        self.count = 0
        self.generation += 1
        self.known = np.zeros(0, dtype=np.uint64)
        self.lost.clear()
        self._contents.clear()

    def close(self) -> None:
        self._table.close()


def entry_of(place: int) -> int:
    """The map entry of a block that is due."""
    return place * DUE_CHECK << CHECK_SHIFT | DUE


def entries_of(places: npt.NDArray[np.int64]) -> npt.NDArray[np.uint64]:
    """The same for many."""
    return places.astype(np.uint64) * np.uint64(DUE_CHECK) << np.uint64(CHECK_SHIFT) | np.uint64(DUE)


def place_of(entry: int) -> int | None:
    """The place that the map entry of a due block names; None if that was damaged."""
    place, rest = divmod(entry >> CHECK_SHIFT, DUE_CHECK)
    return None if rest or entry & ID_MASK != DUE else place


def are_due(entries: npt.NDArray[np.uint64], count: int) -> npt.NDArray[np.bool_]:
    """Which map entries are undamaged ones of blocks that are due, with so many arrivals?"""
    check = entries >> np.uint64(CHECK_SHIFT)
    named = (entries & np.uint64(ID_MASK) == DUE) & (check % np.uint64(DUE_CHECK) == 0)
    return np.asarray(named & (check // np.uint64(DUE_CHECK) < count), dtype=np.bool_)


def content_digest(block: Buffer) -> bytes:
    """By which blocks of different hosts are told apart; no collision of it is known, nor can be looked for."""
    return blake2b(block, digest_size=DIGEST_BYTES).digest()
