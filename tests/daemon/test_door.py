"""The door: one inside at a time, and a thread that hammers it starves nobody."""

from __future__ import annotations

import threading
import time
from contextlib import AbstractContextManager

import pytest

from blockstore.daemon.door import Door
from tests.daemon.lab import until

VISITS = 40


def way(door: Door, quick: bool) -> AbstractContextManager[object]:
    """How the lane comes in for a fault, or how everybody does."""
    return door.itself if quick and not door.somebody_waits() else door


@pytest.mark.parametrize("quick", [False, True])
def test_who_waits_is_next_though_the_one_inside_comes_again_at_once(quick: bool) -> None:
    door, order = Door(), list[str]()

    def wait() -> None:
        with door:
            order.append("waited")

    for _ in range(VISITS):
        thread = threading.Thread(target=wait)
        with door:
            thread.start()
            until(door.somebody_waits, "the other one waits")
        with way(door, quick):
            order.append("came again")
        thread.join()
    assert order == ["waited", "came again"] * VISITS


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
