"""How trio's thread has the store do something: step by step through the door, waiting while there is no room, and for
what is in the tier.

The lane has its own way (lane.py): it looks at the device between two steps.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, TypeVar

import trio

from blockstore.daemon.door import Door
from blockstore.daemon.fetches import FETCHERS, FIRST_RETRY_S, LONGEST_RETRY_S, Fetches
from blockstore.errors import OutOfRoom
from blockstore.store.decode import NotHere
from blockstore.store.fetch import Blocks
from blockstore.store.store import Steps, Store
from blockstore.store.tiers import TierAway
from blockstore.store.volume import Volume

Result = TypeVar("Result")

log = logging.getLogger(__name__)

RETRY_S: Final = 0.05
"""How soon a request that found no room is tried again."""

QUIET_S: Final = 3.0
"""When less than a segment was stored in so long, garbage is compacted that would not be worth it otherwise."""

MAXIMUM_WAITING: Final = 32
"""Of those that change a file's size and find no room, so many wait; the next ones fail with ENOSPC. pyfuse3 serves
some hundred requests at once, and those that make room must get through."""


class Stepper:
    """For all tasks of trio's thread. `fetches` are there if there is a tier; `makes_room()` says whether room is being
    made."""

    def __init__(
        self, store: Store, door: Door, fetches: Fetches | None = None, makes_room: Callable[[], bool] = bool
    ) -> None:
        self._store = store
        self._door = door
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
        """All steps, one visit at the door each; waits while there is no room.

        Raises OutOfRoom instead of waiting when it `may_fail` and too many wait already.
        """
        waits = False
        try:
            while True:
                with self._door:
                    try:
                        went_on = next(steps)
                    except StopIteration:
                        return
                if isinstance(went_on, Blocks):
                    await self.fetch(went_on)
                    continue
                if not went_on and not waits:
                    if may_fail and self.stalled >= MAXIMUM_WAITING:
                        raise OutOfRoom("the pool has no room, and too many requests wait for it already")
                    waits = True
                    self.stalled += 1
                    if not self._makes_room():
                        log.error(
                            "there is no room for more: a request waits; `blockstore status --check` says what is full"
                        )
                await (trio.lowlevel.checkpoint() if went_on else trio.sleep(RETRY_S))
        finally:
            self.stalled -= waits

    async def fetch(self, blocks: Blocks) -> None:
        """Have what these blocks need at hand for a moment; waits while the tier is away. Without one: NotHere."""
        fetches = self._fetches
        if fetches is None:
            raise NotHere
        await self._ask_tier(lambda: fetches.fetch(blocks))

    async def read(self, volume: Volume, offset: int, length: int) -> bytes:
        """What is there, some of which is in the tier; waits while that is away. Without one: NotHere."""
        fetches = self._fetches
        if fetches is None:
            raise NotHere
        return await self._ask_tier(lambda: fetches.read_now(volume, offset, length))

    async def _ask_tier(self, ask: Callable[[], Result]) -> Result:
        retry_s = FIRST_RETRY_S
        while True:
            try:
                return await trio.to_thread.run_sync(ask, abandon_on_cancel=True, limiter=self._at_tier)
            except TierAway:
                await trio.sleep(retry_s)
                retry_s = min(2 * retry_s, LONGEST_RETRY_S)

    async def compact(self) -> None:
        """Compaction of what this thread has freed, and of what is left when nobody writes; of what the lane frees, the
        lane does it. Never returns."""
        pool = self._store.pool
        while True:
            head = pool.head
            with trio.move_on_after(QUIET_S):
                await self._changed.wait()
            quiet = not self._changed.is_set()
            if quiet and head != pool.head:
                continue  # somebody writes
            self._changed = trio.Event()
            went_on = True
            while went_on:
                with self._door:
                    went_on = self._store.upkeep.due(quiet=quiet) and self._store.upkeep.step(quiet=quiet)
                await trio.lowlevel.checkpoint()
