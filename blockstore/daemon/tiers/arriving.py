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

from blockstore.daemon.lane.waits import (
    BACKGROUND_FIRST_RETRY_S,
    BACKGROUND_LONGEST_RETRY_S,
    BACKGROUND_ROOM_RETRY_S,
    TierRetry,
)
from blockstore.daemon.tiers.fetches import END_S
from blockstore.daemon.tiers.sources import Sources
from blockstore.plane.sync.lock import StoreLock
from blockstore.store.remote import fetch
from blockstore.store.steps import Outcome, Steps, take_step
from blockstore.store.store import Store
from blockstore.store.tiers import TierAway
from blockstore.store.volume import Volume

log = logging.getLogger(__name__)

BLOCKS_A_TIME: Final = 64
"""Fetched together, some 80 KB, and checked and stored in one visit of about a millisecond, as a step of a write is."""

ENTRIES_A_VISIT: Final = 1 << 15
"""Map entries looked at in one visit, in about 0.1 ms."""

LOOK_S: Final = 0.5
"""How often it is looked whether anything is due."""


class Arriving:
    """Of one daemon. `is_pulling()`: is there a pull that may still make blocks due."""

    def __init__(self, store: Store, store_lock: StoreLock, sources: Sources, is_pulling: Callable[[], bool]) -> None:
        self._store = store
        self._remote = store.remote
        self._store_lock = store_lock
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
        """What `status` tells; nothing when no block is due. To be asked with the store lock."""
        if not self._remote.contents:
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
        retry = TierRetry(BACKGROUND_FIRST_RETRY_S, BACKGROUND_LONGEST_RETRY_S)
        while not self._ends.is_set():
            pause_s = LOOK_S
            try:
                if self._remote.contents:
                    self._pass()
                    retry.answered()
            except TierAway:
                pause_s = retry.pause_s()
            except Exception:
                log.exception("fetching what is due")
                pause_s = BACKGROUND_LONGEST_RETRY_S
            self._ends.wait(pause_s)

    def _pass(self) -> None:
        """Once through all files. Raises TierAway."""
        made = self._remote.made_due
        self._due, self._made = self._left(), made
        self._found = self._settled = self._lost = 0
        for volume in list(self._store.volumes.values()):
            for due in self._windows(volume):
                self._found += len(due)
                for start in range(0, len(due), BLOCKS_A_TIME):
                    began_s = time.monotonic()
                    self._bring(volume, due[start : start + BLOCKS_A_TIME])
                    self._ends.wait(time.monotonic() - began_s)
                    if self._ends.is_set():
                        return
        found, self._due, self._lost_before = self._found, self._found - self._settled, self._lost
        self._found = self._settled = self._lost = 0
        if not found:
            self._end()

    def _left(self) -> int:
        """How many blocks are due, as far as is known: all, but for clones that were made since the last pass."""
        return max(max(self._due + self._remote.made_due - self._made, self._found) - self._settled, 0)

    def _windows(self, volume: Volume) -> Iterator[list[int]]:
        """The blocks that are due, for all parts of a volume's map that have any."""
        position = 0
        while True:
            with self._store_lock:
                if volume.deleted or position >= volume.blocks:
                    return
                due = self._remote.due(volume, position, ENTRIES_A_VISIT)
            if due:
                yield due
            position += ENTRIES_A_VISIT

    def _bring(self, volume: Volume, numbers: list[int]) -> None:
        """Let these blocks be stored, those of them that are still due and not lost. Raises TierAway."""
        with self._store_lock:
            entries = {number: volume.lookup(number) for number in numbers if not volume.deleted}
            dues = self._remote.wanted(list(entries.values()))
        fetched = fetch.read(None, self._sources.readers, dues)
        self.fetched_bytes += sum(len(content) for _, content in fetched.arrived)
        steps = self._settle(volume, entries, fetched)
        while not self._ends.is_set() and (outcome := take_step(steps)) is not None:
            if outcome is Outcome.NO_ROOM:
                self._ends.wait(BACKGROUND_ROOM_RETRY_S)

    def _settle(self, volume: Volume, entries: dict[int, int], fetched: fetch.Fetched) -> Steps:
        """Stores what was fetched, in one step unless room must be made. Each step holds the store lock."""
        while True:
            with self._store_lock:
                self._store.keep(fetched)
                if volume.deleted:
                    return
                settled = self._remote.settle(volume, entries)
                if settled is not None:
                    self._settled += settled.blocks
                    self._lost += settled.lost
                    return
                outcome = self._store.make_room()
            yield outcome

    def _end(self) -> None:
        """Nothing was due when it was looked at, one part after the other. If that is so of all at once, it is over."""
        with self._store_lock:
            if self._is_pulling() or not self._remote.forget_all():
                return
            self._sources.forget_all()
        log.info("all blocks of other hosts have arrived")
