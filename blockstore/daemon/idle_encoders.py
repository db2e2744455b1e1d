"""Cold encoders at work: feeds them from trio's thread, which picks before and publishes after.

Neither trio's thread nor anybody else ever waits for one of them, for they may stand still for seconds
(plane/moves/cold_encoders.pyi).
"""

from __future__ import annotations

import logging
import os
from typing import Final

from blockstore.plane.moves.cold_encoders import ColdEncoders
from blockstore.plane.sync.lock import StoreLock
from blockstore.store.store import Store

log = logging.getLogger(__name__)

MOST: Final = 4
"""Threads. They are fed by one, which takes a fifth of the time that one of them takes for a block."""

END_S: Final = 5.0
"""How long the end of the daemon waits for them. They need a millisecond of an idle core; what they work on is lost
with the process, and nothing else."""


def count_of_cores() -> int:
    """Returns how many cold encoders a daemon has: one for each core that it may use, MOST at most."""
    return min(len(os.sched_getaffinity(0)), MOST)


class IdleEncoders:
    """Of one daemon. All methods are for one thread."""

    def __init__(self, store: Store, store_lock: StoreLock, count: int) -> None:
        self._recompression = store.recompression
        self._store_lock = store_lock
        self._encoders = ColdEncoders(count)
        self._count = count
        self._next = 0
        self.is_refused = False
        """Does the kernel give us no threads at idle priority?"""

    @property
    def is_running(self) -> bool:
        """Are there threads?"""
        return self._encoders.is_running

    @property
    def has_work(self) -> bool:
        """Do they have something that is to be settled?"""
        return self._encoders.given > 0

    @property
    def cpu_s(self) -> float:
        """Processor time that all of them took, ever."""
        return sum(ran_ns for _, ran_ns in self._encoders.times_ns()) / 1e9

    def times_ns(self) -> list[tuple[int, int]]:
        """Of each: for how long it had work, and its processor time."""
        return self._encoders.times_ns()

    def feed(self, threads: int) -> bool | None:
        """Settles one piece of work that a thread is done with, or gives one of the first `threads` another one;
        without any, the threads leave what they are at. Returns None when there is nothing to do now, False without
        room."""
        if threads and not self._start():
            return None
        self._encoders.hold(not threads)
        for _ in range(self._count):
            thread = self._next
            self._next = (thread + 1) % self._count
            work = self._encoders.take_back(thread)
            if work is not None:
                return self._recompression.settle(work, self._store_lock)
            if thread < threads and self._give(thread):
                return True
        return None

    def rest(self) -> bool:
        """Takes back one piece of work after the other, then ends the threads. Returns whether they have ended, and
        their memory is given back; if not, it is to be called again after a moment."""
        if self._encoders.is_running:
            if self.feed(0) is not None or self.has_work or not self._encoders.stop(0):
                return False
            self._recompression.give_back()
        return True

    def close(self) -> None:
        """Ends the threads; what they are at is never published."""
        if not self._encoders.stop(END_S):
            log.warning(
                "cold encoders have found no idle core within %.0f s to end on; they end with the process", END_S
            )

    def _start(self) -> bool:
        if self._encoders.is_ending and not self._encoders.stop(0):
            return False
        self.is_refused |= self._encoders.is_refused
        if self.is_refused or self._encoders.is_running:
            return not self.is_refused
        try:
            self._encoders.start()
        except OSError as error:
            log.warning("no cold encoders (%s): cold blocks are encoded within the budget only", error.strerror)
            self.is_refused = True
        return not self.is_refused

    def _give(self, thread: int) -> bool:
        if not self._encoders.has_place(thread):
            return False
        work = self._recompression.lend(self._store_lock)
        return work is not None and self._encoders.give(thread, work)
