"""Bringing the blocks that are due: a thread that goes through all files and makes them blocks like all others.

It fetches what the store has not got, in the order in which files have it, and stores it as a write does. Nobody waits
for it: what a VM reads before is fetched for it (fetches.py). It works half of the time at most, waits for room while
there is none, and for a source that is away. When no block is due any more, what was known of arrivals is forgotten.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Final

import numpy as np

from blockstore.daemon.door import Door
from blockstore.daemon.fetches import END_S
from blockstore.daemon.pager import FIRST_RETRY_S, LONGEST_RETRY_S
from blockstore.daemon.sources import Sources
from blockstore.errors import CorruptBlock
from blockstore.store import fetch
from blockstore.store.arrivals import are_due
from blockstore.store.decode import NotHere
from blockstore.store.ingest import Extent
from blockstore.store.store import Store
from blockstore.store.tiers import TierAway
from blockstore.store.volume import Volume

log = logging.getLogger(__name__)

BLOCKS_A_TIME: Final = 64
"""Fetched together, some 80 KB, and checked and stored in one visit of about a millisecond, as a step of a write is."""

ENTRIES_A_VISIT: Final = 1 << 15
"""Map entries looked at in one visit, in about 0.1 ms."""

LOOK_S: Final = 0.5
"""How often it is looked whether anything is due, and waited for room."""


class Arriving:
    """Of one daemon. `is_pulling()`: is there a pull that may still make blocks due."""

    def __init__(self, store: Store, door: Door, sources: Sources, is_pulling: Callable[[], bool]) -> None:
        self._store = store
        self._arrivals = store.pool.arrivals
        self._door = door
        self._sources = sources
        self._is_pulling = is_pulling
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, name="arriving", daemon=True)
        self._due = self._made = 0
        """Blocks that were due when this pass began, of `made_due` until then."""
        self._found = self._settled = self._lost = self._lost_before = 0
        self.fetched_bytes = 0
        """Of blocks that came from sources, since the daemon's start; those that the store had are not among them."""

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """The mount has ended. A thread that hangs at a source is left behind after a while."""
        self._ends.set()
        self._thread.join(END_S)

    def figures(self) -> dict[str, Any] | None:
        """What `status` tells; nothing when no block is due. To be asked at the door."""
        if not self._arrivals.count:
            return None
        return {
            "due_blocks": self._left(),
            "lost_blocks": max(self._lost, self._lost_before),
            "fetched_bytes": self.fetched_bytes,
            "sources": self._sources.figures(),
        }

    @property
    def is_source_away(self) -> bool:
        """Then reads may wait for that, and not for the tier."""
        return any(source.health.failing_since for source in self._sources.readers.values())

    def _run(self) -> None:
        retry_s = FIRST_RETRY_S
        while not self._ends.is_set():
            pause_s = LOOK_S
            try:
                if self._arrivals.count:
                    self._pass()
                    retry_s = FIRST_RETRY_S
            except TierAway:
                pause_s, retry_s = retry_s, min(2 * retry_s, LONGEST_RETRY_S)
            except Exception:
                log.exception("fetching what is due")
                pause_s = LONGEST_RETRY_S
            self._ends.wait(pause_s)

    def _pass(self) -> None:
        """Once through all files. Raises TierAway."""
        made = self._store.made_due
        self._due, self._made = self._left(), made
        self._found = self._settled = self._lost = 0
        for volume in list(self._store.volumes.values()):
            for first, due in self._windows(volume):
                self._found += len(due)
                for start in range(0, len(due), BLOCKS_A_TIME):
                    began_s = time.monotonic()
                    self._bring(volume, (due[start : start + BLOCKS_A_TIME] + first).tolist())
                    self._ends.wait(time.monotonic() - began_s)
                    if self._ends.is_set():
                        return
        found, self._due, self._lost_before = self._found, self._found - self._settled, self._lost
        self._found = self._settled = self._lost = 0
        if not found:
            self._end()

    def _left(self) -> int:
        """How many blocks are due, as far as is known: all, but for clones that were made since the last pass."""
        return max(max(self._due + self._store.made_due - self._made, self._found) - self._settled, 0)

    def _windows(self, volume: Volume) -> Iterator[tuple[int, np.ndarray[Any, np.dtype[np.int64]]]]:
        """(first block, which from there on are due) for all parts of a volume's map that have any."""
        position = 0
        while True:
            with self._door:
                if volume.deleted or position >= volume.blocks:
                    return
                entries = volume.entries(position, min(ENTRIES_A_VISIT, volume.blocks - position))
                due = np.flatnonzero(are_due(entries, self._arrivals.count))
            if len(due):
                yield position, due
            position += ENTRIES_A_VISIT

    def _bring(self, volume: Volume, numbers: list[int]) -> None:
        """Let these blocks be stored, those of them that are still due and not lost. Raises TierAway."""
        with self._door:
            entries = {number: volume.lookup(number) for number in numbers if not volume.deleted}
            dues = fetch.missing_arrivals(self._arrivals, list(entries.values()))
        fetched = fetch.read(None, self._sources.readers, dues)
        self.fetched_bytes += sum(len(content) for _, content in fetched.arrived)
        while not self._ends.is_set():
            with self._door:
                fetch.keep(self._store.decoder, self._store.pool, fetched)
                if volume.deleted:
                    return
                extents, lost = self._extents(volume, entries)
                if self._store.settle(volume, extents):
                    self._settled += len(extents)
                    self._lost += lost
                    return
                goes_on = self._store.upkeep.step()
            if not goes_on:
                self._ends.wait(LOOK_S)

    def _extents(self, volume: Volume, entries: dict[int, int]) -> tuple[list[Extent], int]:
        """Those that are here, and how many will never be."""
        extents, lost = [], 0
        for number, entry in entries.items():
            if volume.lookup(number) != entry:
                continue  # written meanwhile
            try:
                content = self._store.decoder.verified(entry, volume.domain.seed)
            except CorruptBlock:
                lost += 1
                continue
            except NotHere:
                continue  # it was taken to be here, and is fetched the next time
            extents.append(Extent(volume, number, memoryview(content)))
        return extents, lost

    def _end(self) -> None:
        """Nothing was due when it was looked at, one part after the other. If that is so of all at once, it is over."""
        with self._door:
            if self._is_pulling():
                return
            for volume in self._store.volumes.values():
                for start, end in volume.prepared(0, volume.blocks):
                    if are_due(volume.map_array[start:end], self._arrivals.count).any():
                        return
            self._arrivals.forget_all()
            self._sources.forget_all()
        log.info("all blocks of other hosts have arrived")
