"""Background work: recompresses idle pages (store/moves/recompression.py) within a budget of processor time, and on
cores that nobody else wants.

In trio's thread, in bursts. A fault of a VM may have to wait for a visit to the store, which takes some 0.1 ms; most of
the time goes into encoding, outside. Requests that wait end a burst, and writes that wait for room end all of it.

While cores are idle (idle_cores.py), cold encoders do the encoding (idle_encoders.py), and a burst picks and publishes
for them. Else, and while VMs ask for much, trio's thread encodes as well, within the budget.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Final

import trio

from blockstore.daemon.host import cpu_limit
from blockstore.daemon.idle_cores import IdleCores
from blockstore.daemon.idle_encoders import IdleEncoders, count_of_cores
from blockstore.daemon.options import MountOptions
from blockstore.daemon.supervise import pressure
from blockstore.plane.serve.encoders import give_way
from blockstore.plane.sync.lock import StoreLock
from blockstore.store.store import Store

log = logging.getLogger(__name__)

LOOK_S: Final = 2.0
"""How often cold segments are looked for, and room when there was none."""

BURST_S: Final = 0.0003
"""Of processor time, then a pause in proportion: about the encoding of a batch, which is never cut short. Where all
cores are busy, a fault may wait so long."""

BUSY_S: Final = 0.01
"""After requests were seen to wait, so that the device is drained first."""

FEED_S: Final = 0.0005
"""Least pause after a burst that feeds cold encoders: each has work for 0.8 to 1.6 ms. And no shorter than the burst,
so that trio's thread has half of its time for others."""

REST_S: Final = 0.001
"""Between looks at cold encoders that all have work, or are to end."""

MANY_REQUESTS_PER_S: Final = 200.0
BESIDE_MANY: Final = 20
"""While VMs ask for more than so much, one burst of so many is left: one fault of ten would feel the whole budget."""

RATE_S: Final = 0.1
"""Over which requests are counted."""


class Background:
    """Of one daemon, made before it takes requests. `has_waiting()`: are there requests that nobody has taken yet;
    `requests()`: how many were taken ever; `is_stalled()`: do writes wait for room."""

    def __init__(
        self,
        store: Store,
        store_lock: StoreLock,
        options: MountOptions,
        has_waiting: Callable[[], bool],
        requests: Callable[[], int],
        is_stalled: Callable[[], bool],
        idle_cores: IdleCores | None = None,
    ) -> None:
        self._recompression = store.recompression
        self._store_lock = store_lock
        self._encoders = IdleEncoders(store, store_lock, count_of_cores())
        self._idle_cores = idle_cores or IdleCores(0 if cpu_limit.is_limited() else count_of_cores())
        self._cold_after_s = options.cold_after_s
        self._has_waiting = has_waiting
        self._requests = requests
        self._counted = (time.monotonic(), 0)
        self._is_beside_many = False
        self._is_stalled = is_stalled
        self._was_set = trio.Event()
        self._used_s = 0.0
        self._cpu_percent = options.background_cpu

    @property
    def cpu_percent(self) -> float:
        """Of one core; 0 is off."""
        return self._cpu_percent

    @cpu_percent.setter
    def cpu_percent(self, percent: float) -> None:
        self._cpu_percent = percent
        self._was_set.set()

    def figures(self) -> dict[str, Any]:
        """Since the daemon's start; what `status` tells."""
        done = self._recompression.done
        return {
            "cpu_percent": self._cpu_percent,
            "cpu_s": round(self._used_s + self._encoders.cpu_s, 3),
            "idle_cpu_s": round(self._encoders.cpu_s, 3),
            "tried_blocks": done.tried_blocks,
            "densified_blocks": done.replaced_blocks,
            "saved_bytes": done.saved_bytes,
        }

    async def run(self) -> None:
        """Never returns. An error ends the work, not the daemon: VMs need it more than a smaller pool."""
        try:
            while True:
                try:
                    await self._work()
                except Exception:
                    log.exception("background work is off until it is switched on again")
                    self._cpu_percent = 0.0
        finally:
            self._encoders.close()

    async def _work(self) -> None:
        while True:
            is_due = False
            if self._cpu_percent and not self._is_stalled():
                with self._store_lock:
                    is_due = self._recompression.begin(time.monotonic(), self._cold_after_s)
            if is_due:
                pause_s = await self._burst()
            else:
                pause_s = await self._rest()
            self._was_set = trio.Event()
            with trio.move_on_after(pause_s):
                await self._was_set.wait()

    async def _rest(self) -> float:
        """Ends the cold encoders; how long to pause after it."""
        if not self._encoders.is_running:
            return LOOK_S
        if not self._encoders.rest():
            return REST_S
        await trio.to_thread.run_sync(pressure.trim_heap)
        return LOOK_S

    async def _burst(self) -> float:
        """Work for a moment; how long to pause after it."""
        percent = self._percent_now()
        taken_s = self._idle_cores.look(time.monotonic(), self._encoders.times_ns())
        threads = 0 if self._is_beside_many or self._encoders.is_refused else self._idle_cores.threads
        started_s = time.thread_time()
        used_s, pause_s = 0.0, 0.0
        while used_s < BURST_S and not pause_s:
            if self._has_waiting():
                pause_s = BUSY_S
                break
            went_on = self._step(threads)
            used_s = time.thread_time() - started_s
            pause_s = REST_S if went_on is None else 0.0 if went_on else LOOK_S
            await trio.lowlevel.checkpoint()
            give_way()  # of a VM that was woken meanwhile the scheduler may think that it can wait for the whole burst
        self._used_s += used_s
        if not percent:
            return pause_s
        if threads:
            return max(pause_s, used_s, FEED_S, taken_s * (100 / percent - 1))
        return max(pause_s, (used_s + taken_s) * (100 / percent - 1))

    def _step(self, threads: int) -> bool | None:
        """Does one thing: returns None when there is nothing to do now, False without room."""
        if threads:
            return self._encoders.feed(threads)
        if self._encoders.has_work and (went_on := self._encoders.feed(0)) is not None:
            return went_on
        return self._recompression.step(self._store_lock)

    def _percent_now(self) -> float:
        (before_s, before), now_s = self._counted, time.monotonic()
        if now_s - before_s >= RATE_S:
            self._counted = (now_s, self._requests())
            self._is_beside_many = self._counted[1] - before > MANY_REQUESTS_PER_S * (now_s - before_s)
        return self._cpu_percent / BESIDE_MANY if self._is_beside_many else self._cpu_percent
