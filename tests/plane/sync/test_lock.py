"""The store lock: one thread has it at a time, and a thread that hammers it starves no other."""

from __future__ import annotations

import threading
import time

import pytest

from blockstore.plane.sync.lock import StoreLock
from tests.daemon.lab import until

VISITS = 40


def test_a_thread_that_waits_is_next_though_the_holder_comes_again_at_once() -> None:
    lock, order = StoreLock(), list[str]()

    def wait() -> None:
        with lock:
            order.append("waited")

    for _ in range(VISITS):
        thread = threading.Thread(target=wait)
        with lock:
            thread.start()
            until(lock.somebody_waits, "the other one waits")
        with lock:
            order.append("came again")
        thread.join()
    assert order == ["waited", "came again"] * VISITS
    assert not lock.somebody_waits()


def test_one_thread_at_a_time() -> None:
    lock, inside, worst = StoreLock(), 0, 0

    def visit() -> None:
        nonlocal inside, worst
        for _ in range(200):
            with lock:
                inside += 1
                worst = max(worst, inside)
                time.sleep(0)
                inside -= 1

    threads = [threading.Thread(target=visit) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert worst == 1 and inside == 0


def test_an_error_inside_releases_it() -> None:
    lock = StoreLock()
    for _ in range(3):
        with pytest.raises(ValueError, match="inside"), lock:
            raise ValueError("inside")
    with lock:
        pass
