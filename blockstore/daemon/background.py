"""Background work: recompresses idle pages (store/moves/recompression.py) within a budget of processor time.

In trio's thread, in bursts. A fault of a VM may have to wait for a visit to the store, which takes some 0.1 ms; most of
the time goes into encoding, outside. Requests that wait end a burst, and writes that wait for room end all of it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, Final

import trio

from blockstore.daemon.options import MountOptions
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
    ) -> None:
        self._recompression = store.recompression
        self._store_lock = store_lock
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
            "cpu_s": round(self._used_s, 3),
            "tried_blocks": done.tried_blocks,
            "densified_blocks": done.replaced_blocks,
            "saved_bytes": done.saved_bytes,
        }

    async def run(self) -> None:
        """Never returns. An error ends the work, not the daemon: VMs need it more than a smaller pool."""
        while True:
            try:
                await self._work()
            except Exception:
                log.exception("background work is off until it is switched on again")
                self._cpu_percent = 0.0

    async def _work(self) -> None:
        while True:
            pause_s = LOOK_S
            if self._cpu_percent and not self._is_stalled():
                with self._store_lock:
                    is_due = self._recompression.begin(time.monotonic(), self._cold_after_s)
                if is_due:
                    pause_s = await self._burst()
            self._was_set = trio.Event()
            with trio.move_on_after(pause_s):
                await self._was_set.wait()

    async def _burst(self) -> float:
        """Work for a moment; how long to pause after it."""
        started_s = time.thread_time()
        used_s, pause_s = 0.0, 0.0
        while used_s < BURST_S and not pause_s:
            if self._has_waiting():
                pause_s = BUSY_S
                break
            went_on = self._recompression.step(self._store_lock)
            used_s = time.thread_time() - started_s
            if went_on is None:
                break
            pause_s = 0.0 if went_on else LOOK_S
            await trio.lowlevel.checkpoint()
        self._used_s += used_s
        return max(pause_s, used_s * (100 / self._percent_now() - 1) if self._cpu_percent else 0.0)

    def _percent_now(self) -> float:
        (before_s, before), now_s = self._counted, time.monotonic()
        if now_s - before_s >= RATE_S:
            self._counted = (now_s, self._requests())
            self._is_beside_many = self._counted[1] - before > MANY_REQUESTS_PER_S * (now_s - before_s)
        return self._cpu_percent / BESIDE_MANY if self._is_beside_many else self._cpu_percent
