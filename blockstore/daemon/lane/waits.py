"""How long the daemon waits for room in the pool, and for a tier or a source that is away, before it tries again.

Those who wait take steps by `take_step` (store/steps.py), and each adds how its thread waits: the lane polls its jobs
(jobs.py), a task of trio sleeps (stepper.py), and a thread waits for its own end meanwhile (arriving.py, pager.py).
"""

from __future__ import annotations

from typing import Final

ROOM_RETRY_S: Final = 0.05
"""How soon a request that found no room is tried again: short enough not to be felt. A try encodes the whole step, ten
milliseconds at worst."""

BACKGROUND_ROOM_RETRY_S: Final = 0.5
"""The same for blocks that are stored unasked (arriving.py): they leave room that comes up to requests that wait."""

NO_ROOM_TEXT: Final = "there is no room for more: %s; `blockstore status --check` says what is full"
"""What the log says then, of what waits."""

FIRST_RETRY_S: Final = 0.05
LONGEST_RETRY_S: Final = 2.0
"""Before a tier or a source that was away is asked again for what a VM waits for: at first short enough not to
be felt, and at last so seldom that asking costs next to nothing."""

BACKGROUND_FIRST_RETRY_S: Final = 0.5
BACKGROUND_LONGEST_RETRY_S: Final = 10.0
"""The same for the threads that move blocks unasked (pager.py, arriving.py): no VM waits for an answer of theirs."""


class TierRetry:
    """The pauses before a tier or a source that was away is asked again: each is twice the one before it, up to the
    longest. For one thread at a time."""

    __slots__ = ("_first_s", "_longest_s", "_next_s")

    def __init__(self, first_s: float = FIRST_RETRY_S, longest_s: float = LONGEST_RETRY_S) -> None:
        self._first_s = self._next_s = first_s
        self._longest_s = longest_s

    def pause_s(self) -> float:
        """Returns how many seconds to wait now, after it was away once more."""
        pause_s, self._next_s = self._next_s, min(2 * self._next_s, self._longest_s)
        return pause_s

    def answered(self) -> None:
        """Begins anew: it is not away any more."""
        self._next_s = self._first_s
