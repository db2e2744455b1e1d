"""Real-time priority for a lane's thread, as long as it leaves others something of its core.

At SCHED_RR 1 a fault does not wait for a time slice of whoever else runs there (docs/decisions.md). A thread with it
that never rests would stop its core, so that one which takes too much gets an ordinary priority for a while.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Final

log = logging.getLogger(__name__)

WINDOW_S: Final = 0.1
"""A time slice or more of everybody else; at most so long others wait for a lane that does not rest."""

MOST_OF_A_CORE: Final = 0.8
"""A client that faults on the lane's core as fast as it can leaves the lane two thirds of it; the kernel itself stops
real-time threads only at 0.95 (sched_rt_runtime_us)."""

REST_WINDOWS: Final = 10
"""Windows below MOST_OF_A_CORE, after which the priority is taken again."""


class LanePriority:
    """Of the thread with this native number; `cpu_s()` is the processor time that it has taken."""

    def __init__(self, tid: int, cpu_s: Callable[[], float], now_s: Callable[[], float] = time.monotonic) -> None:
        self._tid = tid
        self._cpu_s = cpu_s
        self._now_s = now_s
        self._from_s, self._from_cpu_s = now_s(), cpu_s()
        self._rested_windows = 0
        self.is_real_time = False
        self._is_refused = False
        self._has_told = False

    def take(self) -> None:
        """Take it, if that is permitted; the log says so where it is not."""
        try:
            os.sched_setscheduler(self._tid, os.SCHED_RR, os.sched_param(1))
        except OSError as error:
            self._is_refused = True
            log.warning(
                "the lane gets no real-time priority (%s): faults may wait for others that run on its core; grant "
                "CAP_SYS_NICE or LimitRTPRIO=1",
                error.strerror,
            )
            return
        self.is_real_time = True

    def look(self) -> None:
        """Drop it, or take it again, by what the thread has used of its core since some WINDOW_S ago. Called now and
        then while there are requests; a time without any counts as rest."""
        now_s = self._now_s()
        passed_s = now_s - self._from_s
        if self._is_refused or passed_s < WINDOW_S:
            return
        cpu_s = self._cpu_s()
        share = (cpu_s - self._from_cpu_s) / passed_s
        self._from_s, self._from_cpu_s = now_s, cpu_s
        if share > MOST_OF_A_CORE:
            self._rested_windows = 0
            if self.is_real_time:
                self._drop(share)
            return
        self._rested_windows += int(passed_s / WINDOW_S)
        if not self.is_real_time and self._rested_windows >= REST_WINDOWS:
            self.take()

    def _drop(self, share: float) -> None:
        try:
            os.sched_setscheduler(self._tid, os.SCHED_OTHER, os.sched_param(0))
        except OSError as error:
            log.error("the lane keeps real-time priority: %s", error.strerror)
            return
        self.is_real_time = False
        if not self._has_told:  # the first time says it all
            log.info("the lane takes %.0f %% of a core: it runs without real-time priority until it rests", 100 * share)
        self._has_told = True
