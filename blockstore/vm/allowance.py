"""The processor time that the controller may spend on one VM. Pure: no clock."""

from __future__ import annotations

from typing import Final

LARGEST_COST: Final = 0.007
"""Of a core, in the long run: when that is overdrawn, the next look comes so much later."""

SAVED_UP_S: Final = 60.0
"""What is not spent can be saved up for so long. That takes some 300 MiB away: a VM that has fallen idle is small in
seconds, and in a minute it can be so again."""

LONGEST_PAUSE_S: Final = 15.0
"""The next look comes no later than that, and what it cannot make up for is forgotten."""


class Allowance:
    """Full at first."""

    def __init__(self) -> None:
        self._left_s = SAVED_UP_S * LARGEST_COST

    def spend(self, elapsed_s: float, cost_s: float) -> float:
        """A look after this time has cost so much; how long to pause before the next one, in seconds."""
        left_s = min(self._left_s + elapsed_s * LARGEST_COST, SAVED_UP_S * LARGEST_COST) - cost_s
        self._left_s = max(left_s, -LONGEST_PAUSE_S * LARGEST_COST)
        return max(-self._left_s, 0.0) / LARGEST_COST
