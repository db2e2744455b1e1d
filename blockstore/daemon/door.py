"""The door to the store: one thread inside at a time, and nobody waits for longer than one visit of another.

Python's locks are unfair: a thread that releases one and takes it again at once keeps it. So everybody queues
for the *turn* first, and gives the turn up only when inside. Whoever waits inside the turn is next.
Visits are short (a step of the store, about a millisecond at most), which is why trio's thread may just block.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from types import TracebackType


class Door:
    """`with door:` ... is a visit. Not reentrant."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self.itself: AbstractContextManager[bool] = threading.Lock()
        """Whoever comes very often may use this while not `somebody_waits()`; it takes a third of the time."""
        self.somebody_waits: Callable[[], bool] = self._turn.locked

    def __enter__(self) -> None:
        with self._turn:
            self.itself.__enter__()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.itself.__exit__(kind, error, traceback)
