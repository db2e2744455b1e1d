"""The door: one inside at a time, and a thread that hammers it starves nobody."""

from __future__ import annotations

import statistics
import threading
import time
from contextlib import AbstractContextManager

import pytest

from blockstore.daemon.door import Door

VISIT_S = 0.002
VISITS = 40


def way(door: Door, quick: bool) -> AbstractContextManager[object]:
    """How the lane comes in for a fault, or how everybody does."""
    return door.itself if quick and not door.somebody_waits() else door


@pytest.mark.parametrize("quick", [False, True])
def test_a_hammering_thread_does_not_starve_another(quick: bool) -> None:
    door, ending, hammered = Door(), threading.Event(), 0

    def hammer() -> None:
        nonlocal hammered
        while not ending.is_set():
            with way(door, quick):
                hammered += 1
                time.sleep(VISIT_S)

    thread = threading.Thread(target=hammer, daemon=True)
    thread.start()
    try:
        waited = []
        for _ in range(VISITS):
            before = hammered
            with door:
                waited.append(hammered - before)
            time.sleep(0)
    finally:
        ending.set()
        thread.join()
    # How many visits of the other we waited for: the one under way, and perhaps one that began before we asked.
    assert statistics.median(waited) <= 2, waited


def test_one_inside_at_a_time() -> None:
    door, inside, worst = Door(), 0, 0

    def visit(quick: bool) -> None:
        nonlocal inside, worst
        for _ in range(200):
            with way(door, quick):
                inside += 1
                worst = max(worst, inside)
                time.sleep(0)
                inside -= 1

    threads = [threading.Thread(target=visit, args=(number % 2 == 0,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert worst == 1 and inside == 0


def test_an_error_inside_leaves_it_open_for_others() -> None:
    door = Door()
    for _ in range(3):
        with pytest.raises(ValueError, match="inside"), door:
            raise ValueError("inside")
    with door:
        pass
