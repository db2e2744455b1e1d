"""The threads that encode: what the kernel writes is stored and answered in them (plane/serve/encoders.pyi).

They run beside faults, and so have little weight and short slices; a thread that cannot have these runs without, slower
for faults. What they cannot store goes to the lane's second thread (lane.py), which steers them meanwhile.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from typing import Any, Final

from blockstore.daemon.lane.latency import BOUNDS_US, Latency
from blockstore.plane.serve.encoders import take_little
from blockstore.plane.serve.requests import Requests
from blockstore.store.store import Store

log = logging.getLogger(__name__)

MOST_THREADS: Final = 4
"""More than cores can do no more, and what four encode at once is more than one process writes back."""

NICE: Final = 10
SLICE_NS: Final = 100_000
"""The least that the scheduler grants. A fault on an encoder's core waits for so long at most where the lane has no
real-time priority."""

SLICE_BLOCKS: Final = 64
"""Blocks that are committed together: half a millisecond of encoding, and for some 50 us of it the store is locked."""


class EncoderThreads:
    """Of one mount. `died` is called, in the thread, when one ends by an error."""

    def __init__(self, store: Store, fd: int, requests: Requests, died: Callable[[], None]) -> None:
        self._store = store
        self.encoders = store.encoders(fd, requests, BOUNDS_US)
        self._queue = self.encoders.queue
        self._died = died
        count = min(len(os.sched_getaffinity(0)), MOST_THREADS)
        self._threads = [
            threading.Thread(target=self._run, name=f"encoder {number}", daemon=True) for number in range(count)
        ]
        self._warns_once = threading.Lock()
        self._holds = self._passes_on = False

    @property
    def turns(self) -> int:
        """Writes that were answered here."""
        return self.encoders.turns

    @property
    def has_waiting(self) -> bool:
        """Are there writes that could be encoded?"""
        return self._queue.count > self._queue.handed

    def is_stuck(self, turns_before: int) -> bool:
        """Do writes wait, though none is Python's, and none was answered since there were `turns_before`?"""
        return self.has_waiting and not self._queue.handed and not self._holds and self.turns == turns_before

    def start(self) -> None:
        """Begin to encode."""
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        """The mount has ended: nobody waits for answers any more."""
        self._queue.end()

    def join(self) -> None:
        """Wait until no thread uses the store; after `end`."""
        for thread in self._threads:
            thread.join()

    def steer(self, *, python_waits: bool, python_works: bool) -> None:
        """Says what the lane's second thread is at. While requests that it has wait for room or the tier, it gets all
        writes, and knows which of them may wait as well. When these go on, further ones are held until it is done with
        them: it may have only a copy of one that writes the same bytes."""
        self._holds = not python_waits and python_works and (self._holds or self._passes_on)
        self._passes_on = python_waits
        self._queue.steer(passes_on=self._passes_on, holds=self._holds)

    def figures(self, others: Latency) -> dict[str, Any]:
        """What `status` tells of how long writes took, with those that Python has answered."""
        figures = others.figures()
        counts, sum_us = self.encoders.latency
        figures["counts"] = [ours + theirs for ours, theirs in zip(counts, figures["counts"], strict=True)]
        figures["sum_us"] += sum_us
        return figures

    def _run(self) -> None:
        try:
            take_little(NICE, SLICE_NS)
        except OSError as error:
            if self._warns_once.acquire(blocking=False):
                log.warning("the encoders run at ordinary priority (%s): faults may wait for them", error.strerror)
        try:
            self.encoders.serve(self._store.new_batch(), SLICE_BLOCKS, self._store.commit_slice)
        except BaseException:
            log.critical("an encoder ended by an error", exc_info=True)
            self._died()
