"""Blocks that are due: written at another host, in a pushed snapshot, and brought here while the VM runs already.

`pull` enters the contents of a snapshot (`add`), looks for those that the store has (`candidates`, `match`), and lets
blocks of a new file name them (`make_due`). Then one thread goes through all files: `due` says which blocks are due,
`wanted` what must be fetched for them, `settle` stores it. All methods are for a thread that is at the store, and take
about a millisecond at most; fetching (fetch.py) goes on outside.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from blockstore.errors import CorruptBlock, InputError, OutOfRoom
from blockstore.plane.tables.arrivals import due_blocks, due_entries, is_any_due, rows_of_domain
from blockstore.plane.tables.digest_lookup import DigestLookup
from blockstore.plane.tables.tables import Tables
from blockstore.store.decode import Decoder
from blockstore.store.ingest import Extent, Ingest
from blockstore.store.remote.arrivals import DIGEST_BYTES, Due, content_digest
from blockstore.store.remote.wants import missing_arrivals
from blockstore.store.state.geometry import BLOCK_SHIFT, CHECK_MASK
from blockstore.store.state.pool import Pool
from blockstore.store.state.rows import Rows
from blockstore.store.steps import NotHere
from blockstore.store.volume import Volume

if TYPE_CHECKING:
    from blockstore.plane.buffers import Bytes, U32s, U64s


class Settled(NamedTuple):
    """Of some blocks that were due: how many are stored now, and how many their source has lost."""

    blocks: int
    lost: int


class Remote:
    """Of one store: writes the arrivals, and volumes as a write does."""

    def __init__(
        self, volumes: dict[int, Volume], tables: Tables, rows: Rows, pool: Pool, decoder: Decoder, ingest: Ingest
    ) -> None:
        self._volumes = volumes
        self._tables = tables
        self._rows = rows
        self._arrivals = pool.arrivals
        self._decoder = decoder
        self._ingest = ingest
        self.made_due = 0
        """Blocks that were due when the store was opened, and that became due since."""

    @property
    def contents(self) -> int:
        """Contents of other hosts that are known of; 0 when no block is due."""
        return self._arrivals.count

    @property
    def sources(self) -> set[int]:
        """The numbers of the sources that blocks are to come from."""
        return self._arrivals.sources

    def add(self, source: int, where: U64s, digests: Bytes) -> int:
        """Enters contents of a source: their places in its pieces, and DIGEST_BYTES of digest for each. Returns the
        place of the first among the arrivals; the others follow. Raises OutOfRoom, and nothing is changed."""
        return self._arrivals.add(source, where, digests)

    def make_due(self, volume: Volume, first: int, places: U32s, first_place: int) -> None:
        """Lets blocks that were never written be due: those at these places, counted from 1, among the arrivals from
        `first_place` on; none where that is 0. The volume grows as needed. Raises InputError for blocks that were
        written, OutOfRoom."""
        entries, due = due_entries(places, first_place)
        volume.cover(first + len(entries))
        if volume.has_data(first, len(entries)):
            raise InputError("the file is in use already; pull into a new one")
        if due:
            volume.prepare(first, len(entries))
            volume.replace(first, entries)
            self.made_due += due
        end = (first + len(entries)) << BLOCK_SHIFT
        if end > volume.size_bytes:
            volume.set_size(end)

    @property
    def rows(self) -> int:
        """How many rows `candidates` goes through."""
        return self._rows.next_row

    def candidates(self, volume: Volume, first: int, count: int) -> list[int]:
        """Returns rows that the volume may share, of `count` from row `first` on."""
        return rows_of_domain(self._tables, volume.domain.index, first, min(first + count, self._rows.next_row))

    def digests(self, digests: Bytes) -> DigestLookup:
        """Prepares digests of DIGEST_BYTES each for `match`. Takes a second for some millions; not to be done at the
        store."""
        return DigestLookup(digests, os.urandom(DIGEST_BYTES))

    def match(self, volume: Volume, candidates: Sequence[int], digests: DigestLookup, first: int) -> int:
        """Notes which of the contents from place `first` on, which have these digests, are those of the candidates.
        Returns how many."""
        entries, found = [], []
        for row in candidates:
            entry = self._rows.digest.items[row] & CHECK_MASK | row
            with suppress(CorruptBlock, NotHere):  # freed meanwhile, or in the tier, which would have to be asked
                found.append(content_digest(self._decoder.verified(entry, volume.domain.seed)))
                entries.append(entry)
        same = digests.find(b"".join(found))
        for number, place in same:
            self._arrivals.known[first + place] = entries[number]
        return len(same)

    def due(self, volume: Volume, first: int, count: int) -> list[int]:
        """Returns the numbers of the blocks that are due, of at most `count` from block `first` on."""
        entries = volume.entries(first, max(min(count, volume.blocks - first), 0))
        return due_blocks(entries, self._arrivals.count, first)

    def wanted(self, entries: Sequence[int]) -> list[Due]:
        """Returns what has to be fetched for blocks with these map entries."""
        return missing_arrivals(self._arrivals, entries)

    def settle(self, volume: Volume, entries: dict[int, int]) -> Settled | None:
        """Stores the contents of blocks, by number, that still have these map entries and are at hand, SLICE_BLOCKS of
        them at most: to their readers nothing changes. Returns None when there is no room; then nothing was done."""
        extents, lost = self._extents(volume, entries)
        if extents:
            try:
                self._ingest.write(volume.domain, extents)
            except OutOfRoom:
                return None
        for extent in extents:
            self._arrivals.settled(entries[extent.first], volume.lookup(extent.first))
        return Settled(len(extents), lost)

    def _extents(self, volume: Volume, entries: dict[int, int]) -> tuple[list[Extent], int]:
        """Those that are here, and how many will never be."""
        extents, lost = [], 0
        for number, entry in entries.items():
            if volume.lookup(number) != entry:
                continue  # written meanwhile
            try:
                content = self._decoder.verified(entry, volume.domain.seed)
            except CorruptBlock:
                lost += 1
                continue
            except NotHere:
                continue  # it was taken to be here, and is fetched the next time
            extents.append(Extent(volume, number, memoryview(content)))
        return extents, lost

    def forget_all(self) -> bool:
        """Gives the memory of the arrivals back, unless a block of any volume is due; returns whether it did."""
        for volume in self._volumes.values():
            for start, end in volume.prepared(0, volume.blocks):
                if is_any_due(volume.map[start:end], self._arrivals.count):
                    return False
        self._arrivals.forget_all()
        return True
