"""Opening a state that exists: what is rebuilt from what is kept, and what a killed process left half done.

See docs/decisions.md, "The truth is small". Runs once, before any other thread knows of the store; only `cut_tail` is
called later as well, for blocks that were in the tier at the start.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from blockstore.errors import CorruptBlock, StateError
from blockstore.plane.tables.content_index import ContentIndex
from blockstore.plane.tables.recount import count_entries
from blockstore.plane.tables.tables import Tables
from blockstore.store.checks.repair import Repair
from blockstore.store.checks.soundness import entry_before, sound_entries
from blockstore.store.decode import Decoder
from blockstore.store.domains import Domains
from blockstore.store.ingest import Extent, Ingest
from blockstore.store.remote.wants import missing
from blockstore.store.state.geometry import (
    BLOCK_BYTES,
    BLOCK_SHIFT,
    FIRST_ROW,
    HOLE,
    ID_MASK,
    LOST_ENTRY,
    ZERO_ENTRY,
)
from blockstore.store.state.home import Home
from blockstore.store.state.pool import Pool
from blockstore.store.state.rows import Rows
from blockstore.store.state.spread import parts_of, share, spread
from blockstore.store.steps import Blocks, NotHere, run
from blockstore.store.volume import Volume, file_name, is_volume, read_header

MEND_PASSES: Final = 2
"""Each leaves its blocks found or LOST. What mends a row may take it from other entries only by a collision."""

Part = tuple[Volume, int, int]
"""Blocks [first, end) of a volume."""


class Counted(NamedTuple):
    """What all maps say: entries that point at each row, and at none; by volume those that are no holes; and parts in
    which some are damaged, with how many."""

    counts: npt.NDArray[np.uint32]
    touched_blocks: dict[int, int]
    lost_blocks: int
    due_blocks: int
    damaged: list[tuple[Part, int]]


class Found(NamedTuple):
    """Blocks of a state that was opened: those that cannot be read any more, and those that are still at other
    hosts."""

    lost_blocks: int
    due_blocks: int


class Recovery:
    """Of one store: writes everything, and `volumes`, which it fills."""

    def __init__(
        self,
        home: Home,
        volumes: dict[int, Volume],
        tables: Tables,
        rows: Rows,
        pool: Pool,
        content: ContentIndex,
        domains: Domains,
        decoder: Decoder,
        ingest: Ingest,
    ) -> None:
        self._home = home
        self._volumes = volumes
        self._tables = tables
        self._rows = rows
        self._pool = pool
        self._content = content
        self._domains = domains
        self._decoder = decoder
        self._ingest = ingest

    def find_volumes(self) -> None:
        """Opens the maps of all volumes. Raises StateError for one of a domain that is not known."""
        for name in self._home.names():
            if is_volume(name):
                header = read_header(self._home, name)
                if header is None:
                    self._home.remove(name)
                    continue
                number, domain_key = header
                if not self._domains.knows(domain_key):
                    raise self._damaged(f"the domain of volume {number} is not in `domains`")
                domain = self._domains.enter(domain_key)
                self._volumes[number] = Volume(self._home, number, domain, create=False)

    def adopt(self, *, mend: bool) -> Found:
        """Makes what is rebuilt at start from what is kept: counts, free lists, the content index. Raises StateError
        for damage, unless it is to `mend` that."""
        self._domains.forget_empty()
        counted = self._count()
        for _ in range(MEND_PASSES if mend else 0):
            for part, _ in counted.damaged:
                self._mend(*part)
            counted = self._count() if counted.damaged else counted
        if counted.damaged:
            volume = counted.damaged[0][0][0]
            blocks = sum(count for part, count in counted.damaged if part[0] is volume)
            raise self._damaged(f"{blocks} blocks of {file_name(volume.number)} cannot be found any more")
        for volume in self._volumes.values():
            volume.adopt(counted.touched_blocks[volume.number])
        self._rows.rebuild(counted.counts)
        self._pool.adopt(self._rows.where.array)
        self._content.rebuild(share)
        for volume in self._volumes.values():
            volume.has_paged_tail = not self.cut_tail(volume)
        return Found(counted.lost_blocks, counted.due_blocks)

    def _count(self) -> Counted:
        """Looks at all map entries. Changes nothing."""
        counts, places = np.zeros(self._rows.capacity, dtype=np.uint32), self._pool.places(found=True)

        def count(volume: Volume, first: int, end: int) -> tuple[int, int, int, int]:
            return count_entries(self._tables, places, volume.block_map, first, end, counts)

        parts = [(volume, *part) for volume in self._volumes.values() for part in parts_of(volume.blocks)]
        touched_blocks, lost_blocks, due_blocks, damaged = dict.fromkeys(self._volumes, 0), 0, 0, []
        for part, (touched, lost, due, unsound) in zip(parts, spread(count, parts), strict=True):
            touched_blocks[part[0].number] += touched
            lost_blocks += lost
            due_blocks += due
            if unsound:
                damaged.append((part, unsound))
        return Counted(counts, touched_blocks, lost_blocks, due_blocks, damaged)

    def cut_tail(self, volume: Volume) -> bool:
        """Clears what a write that was killed before it could store the new size has left in the last block, behind the
        old size.

        A clone leaves the same, and that may be of a block that has to be fetched: returns False then, and nothing is
        cut. Raises OutOfRoom.
        """
        block, used = volume.size_bytes >> BLOCK_SHIFT, volume.size_bytes & (BLOCK_BYTES - 1)
        if not used or volume.lookup(block) in (HOLE, ZERO_ENTRY):
            return True
        if missing(self._rows, self._decoder.cache, self._pool.arrivals, Blocks(volume, block, block + 1)):
            return False
        try:
            content = self._decoder.read_block(volume, block)
        except CorruptBlock:
            return True  # whoever reads it is told
        except NotHere:  # a block that is due was known to be here, and is no more: now it is missing
            return False
        if any(content[used:]):
            cut = memoryview(content[:used].ljust(BLOCK_BYTES, b"\0"))
            self._ingest.write(volume.domain, [Extent(volume, block, cut)], reserved_segments=0)  # the pool may be full
        return True

    def _mend(self, volume: Volume, first: int, end: int) -> None:
        """Mends map entries that are damaged, or point at rows that are."""
        places = self._pool.places(found=True)
        repair = Repair(self._rows, self._pool, self._decoder, self._domains.seeds())
        sound = sound_entries(self._tables, places, np.asarray(volume.entries(first, end - first)))
        for block in (np.flatnonzero(~sound) + first).tolist():
            row = volume.lookup(block) & ID_MASK
            if FIRST_ROW <= row < self._rows.capacity:
                with suppress(NotHere):  # then its record says nothing about what is wrong
                    run(repair.steps(row))
            if not sound_entries(self._tables, places, np.asarray(volume.entries(block, 1))).all():
                before = entry_before(self._tables, self._rows, places, volume.lookup(block), volume.domain.index)
                volume.map[block] = LOST_ENTRY if before is None else before

    def _damaged(self, problem: str) -> StateError:
        return StateError(
            f"the state in {self._home.describe()} is damaged: {problem}; `blockstore verify --state "
            f"{self._home.describe()}` tells more, and with --repair makes the rest usable"
        )
