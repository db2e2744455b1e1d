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
LEAST_PART_PER_S: Final = 0.004
LARGEST_PART_PER_S: Final = 0.2
"""Of what is resident, taken away in a second. An idle VM is down to a tenth in a quarter of a minute."""

GROWTH: Final = 1.3
SLOW_GROWTH: Final = 1.01
"""By which the part grows in a second within the budget: the slow one when a quarter of it was spent of late. A
VM that lives on its working set would be looked at for cold pages all the time otherwise, which costs it and the
controller more than it can find."""

RECENT_S: Final = 10.0
"""What "of late" is: a VM that has become idle is left in peace for no longer than it takes to be sure of it."""

CUT: Final = 4
"""By which the part is divided after an overdraft."""

SAVED_S: Final = 3.0
"""The budget of so many seconds can be saved up, for a VM that wakes up."""

OVERDRAFT_S: Final = 15.0
"""So many seconds' budget at most is to be earned back after an overdraft, or a VM that was very busy would never be
looked at again."""


LARGEST_COST: Final = 0.008
"""Of a core, for looking at one VM: after a look that took long the next one comes so much later."""

LONGEST_PAUSE_S: Final = 15.0
"""But no later than that."""

PAGE_S: Final = 5e-6
"""Processor time for a page that has left, which is not looking: it costs 1 to 2 us while there are cold ones. When the
kernel has to search for them it takes 50, and then LARGEST_COST counts."""

GROWN: Final = 1.25
GROWN_BYTES: Final = 16 << 20
"""What is resident is aged when it is so many times what it was, and so much more: a VM was loaded, or has woken up."""

AGED_S: Final = 8.0
"""After that nothing is taken away, so that the VM shows what it uses. With 3 s, two guests that started on a busy
machine had 60 MiB of what they used taken away."""

_PAGE_BYTES: Final = 4096


class Policy(Protocol):
    """Asked at every tick of the controller. `must`: what it says has to leave, cold or not."""

    must: bool

    def reclaim_bytes(self, resident_bytes: int, waited_s: float, elapsed_s: float) -> int:
        """How much shall leave, after a time in which the VM waited so long for its refaults."""

    def wait(self, waited_s: float, elapsed_s: float) -> None:
        """Takes note of such a time when nothing may leave."""


class Fixed:
    """At most `size_bytes` stay resident."""

    must = True

    def __init__(self, size_bytes: int) -> None:
        self.size_bytes = size_bytes

    def reclaim_bytes(self, resident_bytes: int, waited_s: float, elapsed_s: float) -> int:
        return max(resident_bytes - self.size_bytes, 0)

    def wait(self, waited_s: float, elapsed_s: float) -> None:
        """Nothing is counted."""


class Auto:
    """As little resident as there can be with at most `target_share` of the time spent in refaults."""

    must = False

    def __init__(self, target_share: float, least_bytes: int = 0) -> None:
        """Leaves `least_bytes` resident, and never less than FLOOR_BYTES."""
        assert 0 < target_share < 1
        self._target_share = target_share
        self._least_bytes = max(least_bytes, FLOOR_BYTES)
        self._part_per_s = FIRST_PART_PER_S
        self._budget_s = 0.0
        self._recent_share = 0.0
        self.share = 0.0
        """Of the last minute, about, spent in refaults."""

    def reclaim_bytes(self, resident_bytes: int, waited_s: float, elapsed_s: float) -> int:
        if elapsed_s <= 0 or not self._spend(waited_s, elapsed_s):
            return 0
        growth = GROWTH if self._recent_share < self._target_share / 4 else SLOW_GROWTH
        self._part_per_s = min(self._part_per_s * growth**elapsed_s, LARGEST_PART_PER_S)
        part = min(self._part_per_s * elapsed_s, LARGEST_PART_PER_S)
        return min(int(resident_bytes * part), max(resident_bytes - self._least_bytes, 0))

    def wait(self, waited_s: float, elapsed_s: float) -> None:
        """The part does not grow: that nothing was taken costs nothing, and says nothing."""
        if elapsed_s > 0:
            self._spend(waited_s, elapsed_s)

    def _spend(self, waited_s: float, elapsed_s: float) -> bool:
        """Returns whether the VM is within its budget after that time."""
        was_within = self._budget_s >= 0
        budget_s = self._budget_s + elapsed_s * self._target_share - waited_s
        self._budget_s = min(max(budget_s, -OVERDRAFT_S * self._target_share), SAVED_S * self._target_share)
        self.share += (waited_s / elapsed_s - self.share) * min(elapsed_s / 60, 1.0)
        self._recent_share += (waited_s / elapsed_s - self._recent_share) * min(elapsed_s / RECENT_S, 1.0)
        if self._budget_s < 0 and was_within:
            self._part_per_s = max(self._part_per_s / CUT, LEAST_PART_PER_S)
        return self._budget_s >= 0


class Aging:
    """When the kernel is to forget what was used: it would take pages of a VM that was just loaded in the order in
    which they came, hot ones too, for all of them were used."""

    def __init__(self) -> None:
        self._least_bytes = 0
        self._until_s = 0.0

    def is_due(self, resident_bytes: int, now_s: float) -> bool:
        """Has so much come that it should be done? Asked at every look."""
        if resident_bytes < GROWN * self._least_bytes + GROWN_BYTES:
            self._least_bytes = min(self._least_bytes, resident_bytes)
            return False
        self._least_bytes = resident_bytes
        self._until_s = now_s + AGED_S
        return True

    def is_over(self, now_s: float) -> bool:
        """Has the VM had the time to show what it uses?"""
        return now_s >= self._until_s


class Taken:
    """What was taken away and has not come back. Faults on more than that are no refaults: a VM that starts, or is
    loaded, touches most of its memory for the first time, and is not to be left alone for a minute for that."""

    def __init__(self) -> None:
        self._bytes = 0

    def take(self, size_bytes: int) -> None:
        """So much has left."""
        self._bytes += size_bytes

    def share_of(self, blocks: int) -> float:
        """Which part of so many blocks, which have come now, had been taken away."""
        if blocks <= 0:
            return 0.0
        back_bytes = min(blocks * _PAGE_BYTES, self._bytes)
        self._bytes -= back_bytes
        return back_bytes / (blocks * _PAGE_BYTES)


def pause_s(cost_s: float, taken_bytes: int) -> float:
    """How long the next look is put off after one that took so much processor time and away so many bytes."""
    looking_s = cost_s - taken_bytes / _PAGE_BYTES * PAGE_S
    return min(max(looking_s, 0.0) / LARGEST_COST, LONGEST_PAUSE_S)
