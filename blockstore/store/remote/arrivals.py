"""Blocks that are to arrive from another host's store: what is known of each, until it is here.

A map entry of a block that is *due* has its place in the table `arrivals`: which source, where in which of its pieces,
and a 128-bit BLAKE2b of the content, by which alone it is trusted. The table is written before any map entry names a
place in it, and goes when no map has one any more; between these it only grows.

Reading a due block changes nothing: its content comes from the source, or is decoded from a block that the store has,
and lies in a small cache for a moment. daemon/tiers/arriving.py fills the maps and makes it a block like all others.
"""

from __future__ import annotations

import mmap
from collections import OrderedDict
from hashlib import blake2b
from typing import TYPE_CHECKING, Final, NamedTuple

from blockstore.errors import OutOfRoom
from blockstore.plane.tables.arrivals import enter_arrivals, sources_of, used_arrivals
from blockstore.store.codec import Buffer
from blockstore.store.state.geometry import CHECK_SHIFT, DUE, DUE_CHECK, ID_MASK, MAXIMUM_DUE
from blockstore.store.state.home import Home
from blockstore.store.state.shared_array import SharedArray
from blockstore.store.state.untouched import untouched

if TYPE_CHECKING:
    from blockstore.plane.buffers import Bytes, U64s

NAME: Final = "arrivals"

CACHED_BLOCKS: Final = 1024
"""4 MiB; the largest read asks for 256."""

DIGEST_BYTES: Final = 16
WORDS: Final = 4
"""Of an arrival: its place as a paged word of a row has it, but for the bit; two of the digest; the source's number."""

_FIRST_CAPACITY: Final = 128
_ENTRY_BYTES: Final = 8


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
        self._table = SharedArray(home, NAME, "Q", _FIRST_CAPACITY * WORDS, most=MAXIMUM_DUE * WORDS)
        self.count = used_arrivals(self._table.items)
        self.generation = 0
        """Another number each time that all arrivals are forgotten."""
        self._known = untouched(self.count * _ENTRY_BYTES)
        self.known = memoryview(self._known).cast("Q")
        """By place: a map entry of the same content in this store, as far as somebody has seen one; it may have come to
        mean something else."""
        self.lost: set[int] = set()
        """Places of which the source has not got what it should."""
        self._contents: OrderedDict[int, bytes] = OrderedDict()

    @property
    def size_bytes(self) -> int:
        """Memory of the table, and of what is known at most."""
        return self._table.size_bytes + self.count * _ENTRY_BYTES

    @property
    def sources(self) -> set[int]:
        """The numbers of all that are in the table."""
        return sources_of(self._table.items, self.count)

    def add(self, source: int, where: U64s, digests: Bytes) -> int:
        """So many more, of a source with a number other than 0; `digests` has DIGEST_BYTES for each. The place of the
        first; the others follow. Raises OutOfRoom, and nothing is changed."""
        first, count = self.count, len(where)
        if first + count > MAXIMUM_DUE:
            raise OutOfRoom(f"a store can wait for {MAXIMUM_DUE} blocks of other hosts; try again when more have come")
        self._table.grow((first + count) * WORDS)
        self._let_be_known(first + count)
        enter_arrivals(self._table.items, first, source, where, digests)
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
        """No map entry is due: give the memory back. Raises OutOfRoom, OSError, and then nothing has changed. The file
        stays the same one: a table in a file that the next start does not find would lose what is entered from now
        on."""
        known = untouched(0)
        self._table.empty()
        self.count = 0
        self.generation += 1
        self.known.release()
        self._known = known
        self.known = memoryview(self._known).cast("Q")
        self.lost.clear()
        self._contents.clear()

    def close(self) -> None:
        self._table.close()

    def _let_be_known(self, count: int) -> None:
        """Lets `known` have so many entries. Those that nobody has set take no memory. Raises OutOfRoom."""
        self.known.release()
        try:
            self._known.resize(max(count * _ENTRY_BYTES, mmap.PAGESIZE))
        except OSError:
            raise OutOfRoom(f"there is no memory to note what is known of {count} blocks of other hosts") from None
        finally:
            self.known = memoryview(self._known).cast("Q")


def entry_of(place: int) -> int:
    """The map entry of a block that is due."""
    return place * DUE_CHECK << CHECK_SHIFT | DUE


def place_of(entry: int) -> int | None:
    """The place that the map entry of a due block names; None if that was damaged."""
    place, rest = divmod(entry >> CHECK_SHIFT, DUE_CHECK)
    return None if rest or entry & ID_MASK != DUE else place


def content_digest(block: Buffer) -> bytes:
    """By which blocks of different hosts are told apart; no collision of it is known, nor can be looked for."""
    return blake2b(block, digest_size=DIGEST_BYTES).digest()
