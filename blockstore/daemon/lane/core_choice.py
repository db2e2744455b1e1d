"""Chooses the core for the lane from the cores of the faults that it has looked at. Pure; lane_core.py acts on it.

A fault wakes two threads, and a wake-up that crosses cores costs more than the work in between
(docs/decisions.md, "Where a wake-up costs least").
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Final

LOOKS: Final = 16
"""How many of the last looks count: some thousand faults, which is 20 to 50 ms of a VM that does nothing but fault."""

SETTLED_LOOKS: Final = 12
"""Looks that must agree on a core before the lane moves there. Of faults that come from two cores in equal parts, 8 in
100 such windows seem to have settled on one of them, and the lane leaves it again soon."""

KEPT_LOOKS: Final = 8
"""Looks that must still agree on the lane's core for it to stay. With fewer no core has the majority."""


class CoreChoice:
    """The last LOOKS cores, and the core that was chosen."""

    def __init__(self) -> None:
        self._seen: deque[int] = deque(maxlen=LOOKS)
        self._chosen: int | None = None

    def observe(self, core: int) -> int | None:
        """Takes the core of one more fault; returns the core for the lane, None where the scheduler is to decide."""
        self._seen.append(core)
        ((most, looks),) = Counter(self._seen).most_common(1)
        if looks >= SETTLED_LOOKS:
            self._chosen = most
        elif self._chosen is not None and self._seen.count(self._chosen) < KEPT_LOOKS:
            self._chosen = None
        return self._chosen
