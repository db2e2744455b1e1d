"""Threads at idle priority: what they are given comes back, in order and encoded, and they have nothing that others
need."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from blockstore.plane.moves.cold_encoders import ColdEncoders, ColdWork
from tests.plane.moves.test_reencode import describe, reencoder_of, scan_of, some_blocks, store_of
from tests.store.invariants import check_store
from tests.store.live import remembered_files
from tests.store.material import contents, text

__all__ = ["remembered_files"]

RESERVED_SEGMENTS = 2
END_S = 60.0
"""Far more than threads at idle priority need on any machine that gets on with its tests."""


@contextmanager
def running(count: int) -> Iterator[ColdEncoders]:
    encoders = ColdEncoders(count)
    encoders.start()
    try:
        yield encoders
    finally:
        assert encoders.stop(END_S) and not encoders.is_running


def taken_back(encoders: ColdEncoders, thread: int) -> ColdWork:
    """Waits as the daemon does: by looking again."""
    while (work := encoders.take_back(thread)) is None:
        os.sched_yield()
    return work


def threads_now() -> set[int]:
    return set(map(int, os.listdir("/proc/self/task")))


def test_one_that_is_to_end_is_given_nothing() -> None:
    with running(1) as encoders:
        is_over = encoders.stop(0)
        assert not encoders.has_place(0) and not encoders.give(0, reencoder_of(store_of(some_blocks())))
        assert is_over or encoders.is_running


@pytest.mark.parametrize("threads", (1, 2))
def test_all_that_is_given_comes_back_encoded(threads: int) -> None:
    store = store_of(some_blocks())
    expected, before = contents(store, store.volumes[1]), store.record_bytes
    scan, batches = scan_of(store), [reencoder_of(store) for _ in range(2 * threads)]
    with running(threads) as encoders:
        while scan.pending:
            for number, batch in enumerate(batches):
                describe(store, batch, batch.pick(scan))
                batch.prepare(hard=False, gain_share=0.05)
                assert encoders.give(number % threads, batch)
            assert encoders.given == 2 * threads
            for number, batch in enumerate(batches):
                assert taken_back(encoders, number % threads) is batch
                assert not batch.left
                assert batch.replace(scan, RESERVED_SEGMENTS, store.lock)
        assert not encoders.given and encoders.take_back(0) is None
        assert all(ran_ns > 0 and wanted_ns > 0 for wanted_ns, ran_ns in encoders.times_ns())
    assert sum(batch.replaced for batch in batches) > 20
    assert store.record_bytes == before - sum(batch.saved_bytes for batch in batches)
    assert contents(store, store.volumes[1]) == expected
    check_store(store, decode=True)


def test_they_make_what_is_made_elsewhere() -> None:
    store = store_of(some_blocks())
    scan, here, there = scan_of(store), reencoder_of(store, 40), reencoder_of(store, 40)
    for hard, share in ((False, 0.05), (True, 0.02)):
        for batch in (here, there):
            scan = scan_of(store)
            describe(store, batch, batch.pick(scan))
        here.encode(40, hard=hard, gain_share=share)
        there.prepare(hard=hard, gain_share=share)
        with running(1) as encoders:
            assert encoders.give(0, there)
            taken_back(encoders, 0)
        assert len(here.gains()) > 10 and here.gains() == there.gains() and here.encoded == there.encoded


def test_they_are_at_idle_priority_and_take_no_signal() -> None:
    before = threads_now()
    with running(2) as encoders:
        started = threads_now() - before
        assert len(started) == 2
        while any(os.sched_getscheduler(thread) != os.SCHED_IDLE for thread in started):
            os.sched_yield()
        for thread in started:
            status = Path(f"/proc/self/task/{thread}/status").read_text()
            blocked = int(status.split("SigBlk:")[1].split()[0], 16)
            assert all(blocked >> number - 1 & 1 for number in (1, 2, 15))
        assert not encoders.is_refused
    assert not started & threads_now() and os.sched_getscheduler(0) == os.SCHED_OTHER


def test_they_work_while_another_thread_keeps_the_interpreters_lock() -> None:
    store = store_of(b"".join(map(text, range(8))))
    scan, batch = scan_of(store), reencoder_of(store)
    describe(store, batch, batch.pick(scan))
    batch.prepare(hard=False, gain_share=0.05)
    interval_s = sys.getswitchinterval()
    with running(1) as encoders:
        sys.setswitchinterval(1e6)
        try:
            assert encoders.give(0, batch)
            while encoders.take_back(0) is None:
                pass  # gives the lock up to nobody
        finally:
            sys.setswitchinterval(interval_s)
    assert batch.encoded == 8 and batch.has_gained


def test_what_is_held_comes_back_as_it_was_and_is_picked_again() -> None:
    store = store_of(b"".join(map(text, range(8))))
    scan, batch = scan_of(store), reencoder_of(store)
    rows = scan.numbers()
    describe(store, batch, batch.pick(scan))
    batch.prepare(hard=False, gain_share=0.05)
    with running(1) as encoders:
        encoders.hold(True)
        assert encoders.give(0, batch) and taken_back(encoders, 0) is batch
        assert batch.left == 8 and not batch.encoded and not scan.pending
        assert batch.replace(scan, RESERVED_SEGMENTS, store.lock)
        assert batch.replaced < 1 and scan.numbers() == rows
        encoders.hold(False)
        describe(store, batch, batch.pick(scan))
        assert encoders.give(0, batch) and taken_back(encoders, 0) is batch and batch.has_gained
    assert batch.replace(scan, RESERVED_SEGMENTS, store.lock) and batch.replaced == 8
    check_store(store, decode=True)


def test_what_is_left_of_a_batch_is_picked_again_though_the_scan_went_on() -> None:
    store = store_of(b"".join(map(text, range(8))))
    scan, batch = scan_of(store), reencoder_of(store)
    rows = scan.numbers()
    describe(store, batch, batch.pick(scan))
    assert batch.encode(3, hard=False, gain_share=0.05) == 3
    assert not scan.step(), "nothing was taken since"
    assert batch.replace(scan, RESERVED_SEGMENTS, store.lock) and batch.replaced == 3
    assert sorted(scan.numbers()) == rows[3:]


def test_a_thread_has_two_pieces_of_work_at_most() -> None:
    store = store_of(text(1))
    with running(1) as encoders:
        encoders.hold(True)
        batches = [reencoder_of(store) for _ in range(3)]
        assert [encoders.give(0, batch) for batch in batches] == [True, True, False]
        assert not encoders.has_place(0) and encoders.given == 2
        assert [taken_back(encoders, 0) for _ in range(2)] == batches[:2]
        assert encoders.has_place(0)


def test_after_a_stop_everything_is_taken_back_and_they_can_start_again() -> None:
    store = store_of(b"".join(map(text, range(8))))
    encoders, batch = ColdEncoders(2), reencoder_of(store)
    assert not encoders.is_running and not encoders.give(0, batch), "no thread yet"
    assert encoders.stop(0), "there is none"
    for _ in range(2):
        scan = scan_of(store)
        describe(store, batch, batch.pick(scan))
        batch.prepare(hard=True, gain_share=0.02)
        encoders.start()
        assert encoders.give(1, batch)
        assert encoders.stop(END_S) and encoders.given == 1 and not encoders.give(0, batch)
        with pytest.raises(ValueError, match="still to be taken back"):
            encoders.start()
        times_ns = encoders.times_ns()
        assert encoders.take_back(1) is batch and encoders.take_back(1) is None
        assert batch.left + batch.encoded == 8
    encoders.start()
    with pytest.raises(ValueError, match="running"):
        encoders.start()
    assert encoders.stop(END_S)
    assert all(
        new >= old
        for now, before in zip(encoders.times_ns(), times_ns, strict=True)
        for new, old in zip(now, before, strict=True)
    )


def test_one_that_nobody_has_any_more_ends_its_threads() -> None:
    before = threads_now()
    store = store_of(some_blocks())
    scan, batch = scan_of(store), reencoder_of(store, 40)
    describe(store, batch, batch.pick(scan))
    batch.prepare(hard=True, gain_share=0.02)
    encoders = ColdEncoders(1)
    encoders.start()
    assert encoders.give(0, batch) and len(threads_now() - before) == 1
    del batch, encoders
    assert not threads_now() - before


@pytest.mark.parametrize("count", (0, 65))
def test_other_numbers_of_threads_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match=f"{count} threads"):
        ColdEncoders(count)
    with running(1) as encoders, pytest.raises(ValueError, match="thread 1 of 1"):
        encoders.has_place(1)
