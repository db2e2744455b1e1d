"""Cold encoders at work on a store: fed one thing at a time, and never waited for."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator

import pytest

from blockstore.daemon.idle_encoders import MOST, IdleEncoders, count_of_cores
from blockstore.store.state.home import MemoryHome
from blockstore.store.store import Store
from tests.store.invariants import check_store
from tests.store.live import remembered_files
from tests.store.material import contents, encodings, near, put, text

__all__ = ["remembered_files"]

TEXTS = 300
THREADS = 2


@pytest.fixture
def store() -> Iterator[Store]:
    """With a pass under way."""
    store = Store(MemoryHome(), 64 << 20)
    volume = store.create_volume(1, 1)
    put(store, volume, 0, b"".join(text(seed) for seed in range(TEXTS)))
    put(store, volume, volume.size_bytes, b"".join(near(text(seed), seed, 60) for seed in range(TEXTS)))
    store.recompression.begin_all()
    yield store
    store.close()


@pytest.fixture
def encoders(store: Store) -> Iterator[IdleEncoders]:
    encoders = IdleEncoders(store, store.lock, THREADS)
    yield encoders
    encoders.close()
    assert not encoders.is_running


def fed(encoders: IdleEncoders, threads: int) -> int:
    """Feeds until nothing is to be done and nothing is under way; how often there was something."""
    count = 0
    while (went_on := encoders.feed(threads)) is not None or encoders.has_work:
        if went_on is None:
            os.sched_yield()
        else:
            assert went_on
            count += 1
    return count


def is_over(store: Store) -> bool:
    """Is the pass?"""
    return not store.recompression.begin(0.0, 1e9)


@pytest.mark.parametrize("threads", (1, THREADS))
def test_a_pass_by_cold_encoders_is_as_one_by_trios_thread(store: Store, encoders: IdleEncoders, threads: int) -> None:
    expected, before = contents(store, store.volumes[1]), encodings(store)
    assert not encoders.is_running and encoders.cpu_s == 0
    assert fed(encoders, threads) > 2 * TEXTS / 16
    assert is_over(store) and encoders.is_running and encoders.cpu_s > 0
    assert [ran_ns > 0 for _, ran_ns in encoders.times_ns()][:threads] == [True] * threads
    done = store.recompression.done
    assert done.tried_blocks >= sum(before.values()) and done.replaced_blocks > TEXTS and done.saved_bytes > 0
    assert contents(store, store.volumes[1]) == expected
    check_store(store, decode=True)
    while not encoders.rest():
        pass
    assert not encoders.is_running and encoders.rest()


def test_both_kinds_of_work_by_turns(store: Store, encoders: IdleEncoders) -> None:
    """What is left by encoders that are held, trio's thread does; the pass ends when both have nothing more."""
    expected, turn = contents(store, store.volumes[1]), 0
    while not is_over(store):
        turn += 1
        assert encoders.feed(THREADS if turn % 7 else 0) is not False
        if not turn % 5:
            assert store.recompression.step(store.lock) is not False
        os.sched_yield()
        assert turn < 1_000_000
    assert not encoders.has_work and store.recompression.step(store.lock) is None
    assert store.recompression.done.replaced_blocks > TEXTS
    assert contents(store, store.volumes[1]) == expected
    check_store(store, decode=True)


def test_rest_takes_back_what_was_given_and_nothing_is_lost(store: Store, encoders: IdleEncoders) -> None:
    for _ in range(2 * THREADS):
        assert encoders.feed(THREADS)
    while not encoders.rest():
        pass
    assert not encoders.is_running and not encoders.has_work and not is_over(store)
    assert fed(encoders, THREADS) > 0 and is_over(store)
    assert encodings(store).keys().isdisjoint({2}), "no row was left out"
    check_store(store, decode=True)


def test_a_batch_that_was_begun_within_the_budget_is_ended_by_them(store: Store, encoders: IdleEncoders) -> None:
    fed(encoders, THREADS)
    assert is_over(store)
    store.recompression.begin_all(hard=True)
    while store.recompression.step(store.lock) is not None:
        pass
    whole = store.densify.hard_tried
    store.recompression.begin_all(hard=True)
    assert store.recompression.step(store.lock), "one block of a batch"
    fed(encoders, THREADS)
    assert is_over(store)
    assert store.densify.hard_tried >= 2 * whole > 0
    check_store(store, decode=True)


def test_work_that_comes_while_they_are_to_end_is_done_by_others(store: Store, encoders: IdleEncoders) -> None:
    """Given to one that ends it would never come back, and the pass would never be over."""
    for _ in range(20):
        encoders.feed(THREADS)
        while not encoders.rest():
            encoders.feed(THREADS)
            encoders.feed(0)
        assert not encoders.has_work and not encoders.is_running
    fed(encoders, THREADS)
    assert is_over(store)
    check_store(store, decode=True)


def test_the_end_of_a_daemon_while_they_work(store: Store, encoders: IdleEncoders) -> None:
    expected = contents(store, store.volumes[1])
    for _ in range(2 * THREADS):
        encoders.feed(THREADS)
    encoders.close()
    assert not encoders.is_running and contents(store, store.volumes[1]) == expected
    check_store(store, decode=True)


def test_where_no_thread_can_be_started_there_is_none(
    store: Store, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    class Refused:
        """As many threads as there may be are there."""

        is_running = is_ending = is_refused = False
        given = 0

        def start(self) -> None:
            raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    encoders = IdleEncoders(store, store.lock, 1)
    monkeypatch.setattr(encoders, "_encoders", Refused())
    assert encoders.feed(1) is None and encoders.is_refused and encoders.feed(1) is None
    assert caplog.text.count("within the budget only") == 1


def test_there_are_as_many_as_cores() -> None:
    assert count_of_cores() == min(len(os.sched_getaffinity(0)), MOST)
