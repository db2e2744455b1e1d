"""How trio's thread has the store do something: step by step, waiting while there is no room, and for
what is in the tier.

The lane has its own way (lane.py): it looks at the device between two steps.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

import trio

from blockstore.daemon.lane.waits import NO_ROOM_TEXT, ROOM_RETRY_S, TierRetry
from blockstore.daemon.tiers.fetches import FETCHERS, Fetches
from blockstore.errors import OutOfRoom
from blockstore.plane.sync.lock import StoreLock
from blockstore.store.steps import Blocks, NotHere, Outcome, Steps, take_step
from blockstore.store.store import Store
from blockstore.store.tiers import TierAway

log = logging.getLogger(__name__)

QUIET_S: Final = 3.0
"""When less than a segment was stored in so long, garbage is compacted that would not be worth it otherwise."""

MAXIMUM_WAITING: Final = 32
"""Of those that change a file's size and find no room, so many wait; the next ones fail with ENOSPC. pyfuse3 serves
some hundred requests at once, and those that make room must get through."""


class Stepper:
    """For all tasks of trio's thread. `fetches` are there if there is a tier; `makes_room()` says whether room is being
    made."""

    def __init__(
        self, store: Store, store_lock: StoreLock, fetches: Fetches | None = None, makes_room: Callable[[], bool] = bool
    ) -> None:
        self._store = store
        self._store_lock = store_lock
        self._fetches = fetches
        self._makes_room = makes_room
        self._at_tier = trio.CapacityLimiter(FETCHERS)  # of its own: an unmount needs a thread while all these wait
        self._changed = trio.Event()
        self.stalled = 0
        """Requests that wait for room."""

    async def change(self, steps: Steps, *, may_fail: bool = False) -> None:
        """`take`, for steps that may leave garbage, which is compacted afterwards."""
        try:
            await self.take(steps, may_fail=may_fail)
        finally:
            self._changed.set()

    async def take(self, steps: Steps, *, may_fail: bool = False) -> None:
        """All steps; waits while there is no room.

        Raises OutOfRoom instead of waiting when it `may_fail` and too many wait already.
        """
        waits = False
        try:
            while (outcome := take_step(steps)) is not None:
                if isinstance(outcome, Blocks):
                    await self.fetch(outcome)
                    continue
                if outcome is Outcome.WENT_ON:
                    await trio.lowlevel.checkpoint()
                    continue
                if not waits:
                    if may_fail and self.stalled >= MAXIMUM_WAITING:
                        raise OutOfRoom("the pool has no room, and too many requests wait for it already")
                    waits = True
                    self.stalled += 1
                    if not self._makes_room():
                        log.error(NO_ROOM_TEXT, "a request waits")
                await trio.sleep(ROOM_RETRY_S)
        finally:
            self.stalled -= waits

    async def fetch(self, blocks: Blocks) -> None:
        """Have what these blocks need at hand for a moment; waits while the tier is away. Without one: NotHere."""
        fetches = self._fetches
        if fetches is None:
            raise NotHere
        retry = TierRetry()
        while True:
            try:
                await trio.to_thread.run_sync(fetches.fetch, blocks, abandon_on_cancel=True, limiter=self._at_tier)
                return
            except TierAway:
                await trio.sleep(retry.pause_s())

    async def compact(self) -> None:
        """Compaction of what this thread has freed, and of what is left when nobody writes; of what the lane frees, the
        lane does it. Never returns."""
        store = self._store
        while True:
            filled = store.filled_segments
            with trio.move_on_after(QUIET_S):
                await self._changed.wait()
            quiet = not self._changed.is_set()
            if quiet and filled != store.filled_segments:
                continue  # somebody writes
            self._changed = trio.Event()
            went_on = True
            while went_on:
                with self._store_lock:
                    went_on = store.compact(quiet=quiet)
                await trio.lowlevel.checkpoint()
