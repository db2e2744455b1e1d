"""Recompression of idle pages, as a whole: the passes of densify.py, in short visits to the store.

The store lock is held to publish records, and never while blocks are read and encoded, which takes most of the time and
needs the interpreter's lock as little. All methods are for one thread. Cold encoders (plane/moves/cold_encoders.pyi)
can be lent work: it is picked here, and here is published what came of it. Before a pass, a domain may get a dictionary
(training.py).
"""

from __future__ import annotations

import time
from typing import NamedTuple

from blockstore.plane.moves.cold_encoders import ColdWork
from blockstore.plane.moves.reencode import Reencoder
from blockstore.plane.sync.lock import StoreLock
from blockstore.store.dictionaries import Dictionaries
from blockstore.store.moves.densify import Densify
from blockstore.store.moves.training import Training
from blockstore.store.moves.upkeep import Upkeep


class Recompressed(NamedTuple):
    """Since the store was opened: blocks that were tried, those of them that got smaller records, and by how much."""

    tried_blocks: int
    replaced_blocks: int
    saved_bytes: int


class Recompression:
    """Of one store."""

    def __init__(self, densify: Densify, upkeep: Upkeep, dictionaries: Dictionaries, training: Training) -> None:
        self._densify = densify
        self._upkeep = upkeep
        self._dictionaries = dictionaries
        self._training = training
        self._waits = False

    @property
    def done(self) -> Recompressed:
        """What has come of it."""
        return Recompressed(self._densify.tried, self._densify.replaced, self._densify.saved_bytes)

    @property
    def looks(self) -> int:
        """How often a block was tried, at its first look or its second."""
        return self._densify.tried + self._densify.hard_tried

    def begin(self, now_s: float, cold_after_s: float) -> bool:
        """Returns whether a pass is under way, or there is a segment that has been cold for `cold_after_s`, to begin
        one for. To be asked at the store, every few seconds. False for a while, too, when a dictionary is being made,
        for then blocks are better encoded with that."""
        if self._training.is_under_way(time.monotonic()):
            return False
        self._waits = False
        was_under_way = self._densify.is_under_way
        is_due = self._densify.begin(now_s, cold_after_s)
        if not is_due:
            self._dictionaries.rest()
        elif not was_under_way:
            self._training.begin()
        return is_due

    def begin_all(self, *, hard: bool = False) -> None:
        """Begins a pass over everything, however young. A dictionary that is to be made is made by its first steps."""
        self._waits = True
        self._training.begin()
        self._densify.begin_all(hard=hard)

    def step(self, store_lock: StoreLock) -> bool | None:
        """Encodes some blocks, and replaces a batch when all of it is encoded. Returns None when there is nothing more
        to encode, False without room. That is the end of the pass, unless work is lent."""
        if self._training.step(store_lock, wait=self._waits):
            return True
        before = self._densify.replaced
        went_on = self._densify.step(store_lock)
        if went_on and self._densify.replaced != before:
            self._compact(store_lock)
        return went_on

    def lend(self, store_lock: StoreLock) -> ColdWork | None:
        """Returns work for a cold encoder, which comes back by `settle`. None when there is none now."""
        if self._training.step(store_lock, wait=self._waits):
            return None
        return self._densify.lend(store_lock)

    def settle(self, work: ColdWork, store_lock: StoreLock) -> bool:
        """Publishes what came of work that was lent, done or not. Returns False when there is no room for it; it will
        be lent again."""
        assert isinstance(work, Reencoder)
        before = self._densify.replaced
        has_room = self._densify.settle(work, store_lock)
        if self._densify.replaced != before:
            self._compact(store_lock)
        return has_room

    def give_back(self) -> None:
        """Gives memory back that is of use only to cold encoders, unless they have some of it."""
        self._densify.give_back()

    def _compact(self, store_lock: StoreLock) -> None:
        """Segments that were emptied just now cost next to nothing to compact, long before there is as much garbage as
        others wait for."""
        with store_lock:
            if self._upkeep.due(quiet=True):
                self._upkeep.step()
