"""When encoders get writes, and when the lane's second thread does."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from blockstore.daemon.fuse import fuse_abi as abi
from blockstore.daemon.lane.encoder_threads import MOST_THREADS, EncoderThreads
from blockstore.daemon.lane.latency import BOUNDS_US, Latency
from blockstore.plane.serve.requests import Requests
from blockstore.store.state.home import MemoryHome
from blockstore.store.store import Store


@pytest.fixture
def threads() -> Iterator[EncoderThreads]:
    """Of a store that nobody serves: not started."""
    kernel, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    store = Store(MemoryHome(), 64 << 20)
    yield EncoderThreads(store, ours.fileno(), Requests(abi.MAXIMUM_REQUEST_BYTES), lambda: None)
    store.close()
    kernel.close()
    ours.close()


def test_python_gets_writes_while_it_waits_and_holds_them_until_it_is_done(threads: EncoderThreads) -> None:
    queue = threads.encoders.queue
    first = queue.push(1, 0, 1)
    assert queue.pop() == (first, False)
    queue.hand_back(first)
    threads.steer(python_waits=True, python_works=True)
    second = queue.push(1, 5, 6)
    assert queue.pop() == (second, True), "its job waits for room, so this one may have to wait as well"
    queue.done(first)
    queue.done(second)
    threads.steer(python_waits=False, python_works=True)
    third = queue.push(1, 0, 1)
    assert queue.pop() is None, "Python may still be at a copy of one that came before"
    threads.steer(python_waits=False, python_works=False)
    assert queue.pop() == (third, False)
    queue.done(third)


def test_what_python_is_at_by_itself_holds_nothing(threads: EncoderThreads) -> None:
    threads.steer(python_waits=False, python_works=True)
    queue = threads.encoders.queue
    write = queue.push(1, 0, 1)
    assert queue.pop() == (write, False), "a clone of a large file goes on for long"
    queue.done(write)


def test_encoders_are_stuck_when_writes_wait_and_none_is_answered(threads: EncoderThreads) -> None:
    queue = threads.encoders.queue
    assert not threads.has_waiting and not threads.is_stuck(0)
    first = queue.push(1, 0, 1)
    assert threads.has_waiting and threads.is_stuck(0) and not threads.is_stuck(-1)
    assert queue.pop() == (first, False)
    assert threads.is_stuck(0), "an encoder that does not come back"
    queue.hand_back(first)
    queue.push(1, 0, 1)
    assert not threads.is_stuck(0), "Python is at it, and is looked at by itself"


def test_there_is_a_thread_for_each_core_up_to_a_limit(threads: EncoderThreads) -> None:
    threads.start()
    assert len(threads._threads) == min(len(os.sched_getaffinity(0)), MOST_THREADS)
    threads.end()
    threads.join()


def test_times_are_those_of_both(threads: EncoderThreads) -> None:
    others = Latency()
    others.observe(7000)
    figures = threads.figures(others)
    assert figures["bounds_us"] == BOUNDS_US and len(figures["counts"]) == len(BOUNDS_US) + 1
    assert sum(figures["counts"]) == 1 and figures["sum_us"] == 7
