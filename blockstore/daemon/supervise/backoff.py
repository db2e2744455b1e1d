"""When a daemon that died is started again: at once, unless it dies again and again. Pure."""

from __future__ import annotations

TYPE_CHECKING = False  # so that the supervisor does without typing (lean.py)
if TYPE_CHECKING:
    from typing import Final

QUICK_DEATH_S: Final = 0.3
"""A daemon that served for less than this died of the same thing as the one before it, most likely."""

DELAYS_S: Final = (0.0, 0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0, 5.0)
"""Before the first start after a death, the second in a row, and so on. VMs stall for as long: nothing at first."""

PAUSE_S: Final = 60.0
"""After all these the cause will not go away by itself. One start a minute costs nothing, and the mount is kept for
whoever mends it: VMs stand still, but lose nothing."""


def delay_s(quick_deaths: int) -> float:
    """How long to wait after so many quick deaths in a row, the last one included."""
    if quick_deaths > len(DELAYS_S):
        return PAUSE_S
    return DELAYS_S[max(quick_deaths, 1) - 1]


def count(quick_deaths: int, served_s: float) -> int:
    """Quick deaths in a row, after one more daemon died that had served for so long (0 if its start failed)."""
    return quick_deaths + 1 if served_s < QUICK_DEATH_S else 0
