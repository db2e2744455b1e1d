"""Watches a lane's thread from outside: what its timed faults tell goes to those who want it, and its priority is kept
in bounds.

A lane never takes the interpreter's lock for a READ. It notes one of TIMED_FAULTS (plane/serve/lane.pyi), and this
thread collects the notes, at most every ROUND_S.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

from blockstore.daemon.lane.lane_priority import LanePriority
from blockstore.plane.serve.lane import Lane

log = logging.getLogger(__name__)

ROUND_S: Final = 0.02
"""Between two looks: 50 wake-ups a second at most, none while no requests come. A VM that does nothing but fault has
some 2000 faults in that time, of which half as many are timed as there is room to note."""

Seen = Callable[[int, int, int, int], None]
"""Gets a READ that was timed: inode, offset in bytes, the asking thread, nanoseconds."""


class LaneWatch:
    """The thread. `seen` is called in it; `priority` is that of the lane's thread."""

    def __init__(self, lane: Lane, priority: LanePriority, seen: Seen) -> None:
        self._lane = lane
        self._priority = priority
        self._seen = seen
        self._thread = threading.Thread(target=self._run, name="lane watch", daemon=True)

    def start(self) -> None:
        """Begin; it ends after the lane's `end`."""
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        while (samples := self._lane.take_samples()) is not None:
            self._priority.look()
            for sample in samples:
                try:
                    self._seen(*sample)
                except Exception:
                    log.exception("noting a fault")
            time.sleep(ROUND_S)
