"""Keeps the lane's thread on the core on which the faults happen: /proc and sched_setaffinity(2) around core_choice.py.

Only the lane's watch (lane_watch.py) calls `look`, and only the affinity of the lane's thread changes. Faults of the
daemon and of its controller say nothing about where VMs run, and do not count.
"""

from __future__ import annotations

import logging
import os
import random
from collections.abc import Set
from pathlib import Path
from typing import Final

from blockstore.daemon.host import process_stat
from blockstore.daemon.lane.core_choice import CoreChoice

log = logging.getLogger(__name__)

OFTEN_BITS: Final = 2
SELDOM_BITS: Final = 6
"""One of 4, or of 64, calls of `look` looks. There is a call for each timed fault (plane/serve/lane.pyi), so that is 1
of 68 faults, or of 1088. Seldom while faults come from the core on which the lane runs: a look takes some 20 us with
cold caches. Often from the first look on that found another core. Chance decides which call looks, so that of VMs that
fault in turn each is seen."""


class LaneCore:
    """Made before the lane starts, by a thread whose affinity is the one that the daemon was given."""

    def __init__(self) -> None:
        self._allowed: Set[int] = os.sched_getaffinity(0)
        self._choice = CoreChoice()
        self._chosen: int | None = None
        self._chance_bits = OFTEN_BITS
        self._has_warned = False

    def look(self, tid: int, lane_tid: int = 0) -> None:
        """Notes where the thread `tid` ran when it faulted, and moves the lane's thread if the faults have settled.

        `lane_tid` is the native number of that thread, 0 for the caller. `tid` is the number in a request's header: 0
        for the kernel and for threads of another PID name space.
        """
        if not tid or random.getrandbits(self._chance_bits):
            return
        found = process_stat.parent_and_core(tid)
        if found is None or _is_ours(tid, found[0]):
            return
        core = found[1]
        chosen = self._choice.observe(core)
        self._chance_bits = SELDOM_BITS if core == chosen else OFTEN_BITS
        if chosen != self._chosen:
            self._chosen = chosen
            self._move(chosen, lane_tid)

    def _move(self, core: int | None, lane_tid: int) -> None:
        if core is not None and core not in self._allowed:
            self._warn(
                f"faults come from core {core}, which the affinity of the daemon leaves out: the lane answers them "
                "from another core, and each takes longer; let the daemon run on the cores of the VMs"
            )
            core = None
        try:
            os.sched_setaffinity(lane_tid, self._allowed if core is None else {core})
        except OSError as error:
            where = "the cores that the daemon was given" if core is None else f"core {core}, where the faults happen"
            self._warn(f"the lane cannot move to {where} ({error.strerror}): faults may take longer")

    def _warn(self, text: str) -> None:
        """Logs the first obstacle; later ones would say the same of another core."""
        if not self._has_warned:
            log.warning("%s", text)
        self._has_warned = True


def _is_ours(tid: int, parent: int) -> bool:
    """Is it a thread of the controller, which is the daemon's child, or of the daemon itself?"""
    return parent == os.getpid() or (parent == os.getppid() and Path(f"/proc/self/task/{tid}").exists())
