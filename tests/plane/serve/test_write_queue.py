"""The order in which encoders get WRITE requests."""

from __future__ import annotations

import threading
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from blockstore.plane.serve.write_queue import WriteQueue


def test_writes_come_in_their_order() -> None:
    queue = WriteQueue()
    first, second = queue.push(1, 0, 4096), queue.push(1, 4096, 8192)
    assert (queue.pop(), queue.pop(), queue.pop()) == ((first, False), (second, False), None)
    assert queue.count == 2
    queue.done(first)
    queue.done(second)
    assert queue.count == 0


def test_a_write_of_the_same_bytes_waits_for_the_one_before_it_and_no_other_does() -> None:
    queue = WriteQueue()
    first = queue.push(1, 0, 4096)
    same = queue.push(1, 4095, 5000)
    elsewhere = queue.push(2, 0, 4096)
    assert queue.pop() == (first, False)
    assert queue.pop() == (elsewhere, False)
    assert queue.pop() is None
    queue.done(elsewhere)
    assert queue.pop() is None
    queue.done(first)
    assert queue.pop() == (same, False)
    queue.done(same)


def test_a_write_starts_at_once_if_nothing_is_in_its_way() -> None:
    queue = WriteQueue()
    (first, begins), (elsewhere, begins_too) = queue.start(1, 0, 4096), queue.start(2, 0, 4096)
    assert begins and begins_too and queue.count == 2
    queued = queue.push(1, 8192, 12288)
    waiting = []

    def assert_waits(volume: int, start: int, end: int, why: str) -> None:
        number, begins = queue.start(volume, start, end)
        assert not begins, why
        waiting.append(number)

    assert_waits(1, 4095, 5000, "one of the same bytes is under way")
    assert_waits(1, 12287, 12288, "one of the same bytes is queued")
    queue.give_up(first)
    assert (queue.pop(), queue.pop()) == ((first, False), (queued, False)), "it has kept its place"
    queue.hand_back(first)
    assert_waits(3, 0, 1, "Python has one")
    queue.done(first)
    for steered in ({"passes_on": True, "holds": False}, {"passes_on": False, "holds": True}):
        queue.steer(**steered)
        assert_waits(4, 0, 1, "writes are passed on or held")
    queue.steer(passes_on=False, holds=False)
    last, begins = queue.start(5, 0, 1)
    assert begins
    for number in (elsewhere, queued, last, *waiting):
        queue.done(number)
    assert queue.count == 0


def test_while_python_is_at_a_write_others_are_held_back() -> None:
    queue = WriteQueue()
    first = queue.push(1, 0, 4096)
    assert queue.pop() == (first, False)
    queue.hand_back(first)
    second = queue.push(2, 0, 4096)
    assert (queue.pop(), queue.handed) == (None, 1)
    queue.done(first)
    assert (queue.pop(), queue.handed) == ((second, False), 0)
    queue.done(second)


def test_while_python_waits_others_are_handed_on_behind_those_that_encoders_have() -> None:
    queue = WriteQueue()
    first, encoded = queue.push(1, 0, 4096), queue.push(1, 8192, 12288)
    assert (queue.pop(), queue.pop()) == ((first, False), (encoded, False))
    queue.hand_back(first)
    queue.steer(passes_on=True, holds=False)
    same_as_handed, same_as_encoded = queue.push(1, 0, 4096), queue.push(1, 8192, 8193)
    assert queue.pop() == (same_as_handed, True), "Python keeps the order of those that it has"
    assert queue.pop() is None, "an encoder may still be at these bytes"
    queue.done(encoded)
    assert queue.pop() == (same_as_encoded, True)
    for number in (first, same_as_handed, same_as_encoded):
        queue.done(number)
    assert queue.handed == 0
    queue.steer(passes_on=False, holds=True)
    last = queue.push(1, 0, 1)
    assert queue.pop() is None
    queue.steer(passes_on=False, holds=False)
    assert queue.pop() == (last, False)
    queue.done(last)


WRITES = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 7), st.integers(1, 4)), max_size=12)
"""Volume, first byte and length of each."""


@given(WRITES, st.randoms(use_true_random=False))
def test_no_two_that_write_the_same_bytes_are_under_way_and_none_overtakes(
    writes: list[tuple[int, int, int]], chance: Random
) -> None:
    queue = WriteQueue()
    order = {queue.push(volume, start, start + length): place for place, (volume, start, length) in enumerate(writes)}
    under_way: list[int] = []
    last_on: dict[tuple[int, int], int] = {}
    while order:
        while (popped := queue.pop()) is not None:
            under_way.append(popped[0])
            volume, start, length = writes[order[popped[0]]]
            for byte in range(start, start + length):
                assert last_on.get((volume, byte), -1) < order[popped[0]]
                last_on[volume, byte] = order[popped[0]]
        bytes_under_way = [
            (writes[order[number]][0], byte)
            for number in under_way
            for byte in range(writes[order[number]][1], sum(writes[order[number]][1:]))
        ]
        assert len(bytes_under_way) == len(set(bytes_under_way))
        done = under_way.pop(chance.randrange(len(under_way)))
        queue.done(done)
        del order[done]
    assert queue.count == 0


def test_threads_that_push_and_finish_leave_nothing() -> None:
    queue = WriteQueue()
    rounds = 2000

    def push(volume: int) -> None:
        for number in range(rounds):
            queue.push(volume, number % 7, number % 7 + 2)

    done: list[int] = []

    def pop() -> None:
        while len(done) < 2 * rounds:
            if (popped := queue.pop()) is not None:
                done.append(popped[0])
                queue.done(popped[0])

    threads = [threading.Thread(target=push, args=(number,)) for number in (1, 2)]
    threads += [threading.Thread(target=pop) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(done), queue.count, queue.handed) == (2 * rounds, 0, 0)
