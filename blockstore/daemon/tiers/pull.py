"""Making a file's memory that of a snapshot which another host has pushed: its blocks become due, and none is moved.

In a thread of its own, in short visits to the store; whoever asked looks at `progress`. What can be known beforehand is
found out here too: which of these blocks the store has already (the same domain only). Of those nothing is fetched.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from typing import Any, Final

from blockstore.daemon.tiers.fetches import END_S
from blockstore.daemon.tiers.sources import Place, Sources
from blockstore.errors import BlockstoreError, InputError, MountError
from blockstore.plane.sync.lock import StoreLock
from blockstore.store.remote import pushed
from blockstore.store.remote.pushed import Head, Index
from blockstore.store.store import Store
from blockstore.store.tiers import TierAway
from blockstore.store.volume import Volume

log = logging.getLogger(__name__)

ROWS_A_VISIT: Final = 64
"""Rows that are decoded and compared in one visit, in about half a millisecond."""

ROWS_LOOKED_AT: Final = 1 << 15
"""Rows of which is looked at, in one visit, whether they are of the domain and in the pool."""

ENTRIES_A_VISIT: Final = 8192
"""Map entries made due in one visit."""

OUTCOMES_KEPT: Final = 16
"""Of pulls that are over; whoever began one asks for it within a fraction of a second."""


class Pull:
    """The one that is under way in a daemon, or the last one."""

    def __init__(self, store: Store, store_lock: StoreLock, sources: Sources) -> None:
        self._store = store
        self._store_lock = store_lock
        self._sources = sources
        self._thread: threading.Thread | None = None
        self._ends = False
        self._number = 0
        self._done = self._total = 0
        self._blocks = self._here = 0
        self._outcomes: OrderedDict[int, dict[str, Any]] = OrderedDict()  # by volume

    def start(self, number: int, place: Place) -> dict[str, Any]:
        """Begin, for the volume of this number, which nobody else uses yet."""
        volume = self._store.volumes.get(number)
        if volume is None:
            return {"error": f"the mount has no file with the number {number}", "code": InputError.exit_code}
        if self.is_under_way:
            return {"error": "another snapshot is being pulled into this mount; try again when it is listed", "code": 3}
        self._number, self._done, self._total, self._blocks, self._here = number, 0, 1, 0, 0
        self._outcomes.pop(number, None)
        self._thread = threading.Thread(target=self._run, args=(volume, place), name="pull", daemon=True)
        self._thread.start()
        return {}

    @property
    def is_under_way(self) -> bool:
        """Has the thread not ended?"""
        return self._thread is not None and self._thread.is_alive()

    def progress(self, number: int) -> dict[str, Any]:
        """`done` of `total` while that of this volume is under way; then how many blocks differ, and how many of them
        are here. Never of another one: a file whose own pull has failed reads as zeros."""
        if self.is_under_way and number == self._number:
            return {"running": True, "done": self._done, "total": self._total}
        return self._outcomes.get(number, {"error": "the daemon was started anew meanwhile; pull again"})

    def stop(self) -> None:
        """The mount has ended."""
        self._ends = True
        if self._thread is not None:
            self._thread.join(END_S)

    def _run(self, volume: Volume, place: Place) -> None:
        try:
            self._pull(volume, place)
            outcome: dict[str, Any] = {"running": False, "blocks": self._blocks, "here": self._here}
        except BlockstoreError as error:
            outcome = {"error": str(error), "code": error.exit_code}
        except TierAway as error:
            outcome = {"error": str(error), "code": MountError.exit_code}
        except Exception as error:
            log.exception("pulling %s", place.name)
            outcome = {"error": f"{place.name} cannot be pulled: {error!r}", "code": BlockstoreError.exit_code}
        self._outcomes[volume.number] = outcome
        while len(self._outcomes) > OUTCOMES_KEPT:
            self._outcomes.popitem(last=False)
        with self._store_lock:
            if not self._store.remote.contents:
                self._sources.forget_all()

    def _pull(self, volume: Volume, place: Place) -> None:
        with self._store_lock:
            number = self._sources.add(place)
        tier = self._sources.readers[number].open()
        head = pushed.read_head(tier, place.name)
        index = pushed.read_index(tier, head)
        with self._store_lock:
            known = self._store.remote.rows
        self._total = known + len(index.places)
        with self._store_lock:
            first = self._store.remote.add(number, index.where, index.digests)
        self._look_for(volume, head, index, first)
        self._make_due(volume, index, first)

    def _look_for(self, volume: Volume, head: Head, index: Index, first: int) -> None:
        """Which of the contents does the store have?"""
        remote = self._store.remote
        digests = remote.digests(index.digests)
        looked_at = 0
        while not (self._ends or volume.deleted):
            with self._store_lock:
                found = remote.candidates(volume, looked_at, ROWS_LOOKED_AT)
            for start in range(0, len(found), ROWS_A_VISIT):
                with self._store_lock:
                    self._here += remote.match(volume, found[start : start + ROWS_A_VISIT], digests, first)
            looked_at += ROWS_LOOKED_AT
            self._done = min(looked_at, remote.rows)
            if looked_at >= remote.rows:
                break
        self._blocks = head.blocks

    def _make_due(self, volume: Volume, index: Index, first: int) -> None:
        before = self._done
        for start in range(0, len(index.places), ENTRIES_A_VISIT):
            places = index.places[start : start + ENTRIES_A_VISIT]
            with self._store_lock:
                if volume.deleted or self._ends:
                    raise BlockstoreError("the pull was ended before it was done")
                self._store.remote.make_due(volume, start, places, first)
            self._done = before + start
