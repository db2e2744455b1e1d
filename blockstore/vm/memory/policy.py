"""How much of a VM shall leave the page cache now: the fixed size, and `auto`. Pure: no clock, no kernel.

`auto` (docs/resident.md) has a *budget* of time that a VM may wait for its refaults, which grows by the target share of
the time that passes. While something is left of it, a part of what is resident is taken away; the part grows while that
costs little and is cut when the budget is overdrawn, which must be earned back first. So the waiting of the VM is
the target share in the long run, whatever it does.
"""

from __future__ import annotations

from typing import Final, Protocol

FLOOR_BYTES: Final = 4 << 20
"""What is left to every VM: less is not worth the trouble."""

FIRST_PART_PER_S: Final = 0.05
LEAST_PART_PER_S: Final = 0.001
LARGEST_PART_PER_S: Final = 0.15
"""Of what is resident, taken away in a second. An idle VM is down to a tenth in half a minute."""

GROWTH: Final = 1.08
SLOW_GROWTH: Final = 1.01
"""By which the part grows in a second within the budget: the slow one when a quarter of it was spent of late. A
VM that lives on its working set would be looked at for cold pages all the time otherwise, which costs it and the
controller more than it can find."""

RECENT_S: Final = 20.0
"""What "of late" is: a VM that has become idle is left in peace for no longer than it takes to be sure of it."""

CUT: Final = 4
"""By which the part is divided after an overdraft."""

SAVED_S: Final = 3.0
"""The budget of so many seconds can be saved up, for a VM that wakes up."""

OVERDRAFT_S: Final = 60.0
"""So many seconds' budget at most is to be earned back after an overdraft, or a VM that was very busy would never be
looked at again."""


class Policy(Protocol):
    """Asked at every tick of the controller. `must`: what it says has to leave, cold or not."""

    must: bool

    def reclaim_bytes(self, resident_bytes: int, waited_s: float, elapsed_s: float) -> int:
        """How much shall leave, after a time in which the VM waited so long for its refaults."""


class Fixed:
    """At most `size_bytes` stay resident."""

    must = True

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes

    def reclaim_bytes(self, resident_bytes: int, waited_s: float, elapsed_s: float) -> int:
        return max(resident_bytes - self.size_bytes, 0)


class Auto:
    """As little resident as there can be with at most `target_share` of the time spent in refaults."""

    must = False

    def __init__(self, target_share: float) -> None:
        assert 0 < target_share < 1
        self._target_share = target_share
        self._part_per_s = FIRST_PART_PER_S
        self._budget_s = 0.0
        self._recent_share = 0.0
        self.share = 0.0
        """Of the last minute, about, spent in refaults."""

    def reclaim_bytes(self, resident_bytes: int, waited_s: float, elapsed_s: float) -> int:
        if elapsed_s <= 0:
            return 0
        was_within = self._budget_s >= 0
        budget_s = self._budget_s + elapsed_s * self._target_share - waited_s
        self._budget_s = min(max(budget_s, -OVERDRAFT_S * self._target_share), SAVED_S * self._target_share)
        self.share += (waited_s / elapsed_s - self.share) * min(elapsed_s / 60, 1.0)
        self._recent_share += (waited_s / elapsed_s - self._recent_share) * min(elapsed_s / RECENT_S, 1.0)
        if self._budget_s < 0:
            if was_within:
                self._part_per_s = max(self._part_per_s / CUT, LEAST_PART_PER_S)
            return 0
        growth = GROWTH if self._recent_share < self._target_share / 4 else SLOW_GROWTH
        self._part_per_s = min(self._part_per_s * growth**elapsed_s, LARGEST_PART_PER_S)
        part = min(self._part_per_s * elapsed_s, LARGEST_PART_PER_S)
        return min(int(resident_bytes * part), max(resident_bytes - FLOOR_BYTES, 0))
