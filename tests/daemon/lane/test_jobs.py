"""Jobs of the lane that wait for room: how many there are, whoever asks, whenever."""

from __future__ import annotations

import errno

import pytest

from blockstore.daemon.fuse import fuse_abi as abi
from blockstore.daemon.lane.jobs import MAXIMUM_JOBS, STALL_RETRY_MS, Job, Jobs
from blockstore.daemon.lane.latency import Latency
from blockstore.store.state.home import MemoryHome
from blockstore.store.steps import NotHere, Outcome, Steps
from blockstore.store.store import Store
from blockstore.store.tiers import PieceMissing, TierAway


def tries(failures: int) -> Steps:
    """Steps that find no room so often, and then are done."""
    for _ in range(failures):
        yield Outcome.NO_ROOM


def test_a_job_that_is_tried_again_still_waits() -> None:
    answers: list[bytes] = []
    waiting = Jobs(answers.append, Latency())
    volume = Store(MemoryHome(), 16 << 20).create_volume(1, 1)
    for unique in range(3):
        waiting.enter(Job(unique, volume, tries(2), lambda: b"done"))
        waiting.advance()
    assert waiting.stalled == waiting.count == 3
    for _ in range(2):
        waiting._retry_at_ms = 0.0
        waiting.retry()
        assert waiting.stalled == 3, "all of them are being tried again"
        for _ in range(3):
            waiting.advance()
    assert answers == [b"done"] * 3 and waiting.stalled == waiting.count == 0


def test_one_that_is_given_up_waits_no_more() -> None:
    answers: list[bytes] = []
    waiting = Jobs(answers.append, Latency())
    volume = Store(MemoryHome(), 16 << 20).create_volume(1, 1)
    waiting.enter(Job(7, volume, tries(9), lambda: b"done"))
    waiting.advance()
    waiting.interrupt(7)
    assert len(answers) == 1 and waiting.stalled == waiting.count == 0


def test_between_two_tries_there_is_time_for_others_however_long_a_try_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = 1000.0

    def tries_long() -> Steps:
        nonlocal now_s
        while True:
            now_s += STALL_RETRY_MS / 1000
            yield Outcome.NO_ROOM

    monkeypatch.setattr("blockstore.daemon.lane.jobs.time.monotonic", lambda: now_s)
    waiting = Jobs(lambda answer: None, Latency())
    volumes = [Store(MemoryHome(), 16 << 20).create_volume(number, 1) for number in (1, 2)]
    for unique, volume in enumerate(volumes):
        waiting.enter(Job(unique, volume, tries_long(), lambda: b"done"))
        waiting.advance()
    waiting.retry()
    assert waiting.can_go_on
    while waiting.can_go_on:
        waiting.advance()
    assert waiting.retry_in_ms() == STALL_RETRY_MS


def test_requests_are_read_while_all_places_are_taken_by_jobs_without_room() -> None:
    waiting = Jobs(lambda answer: None, Latency())
    volume = Store(MemoryHome(), 16 << 20).create_volume(1, 1)
    for unique in range(MAXIMUM_JOBS):
        assert waiting.takes_more
        waiting.enter(Job(unique, volume, tries(9), lambda: b"done"))
    assert not waiting.takes_more, "one of these has to be done first"
    for _ in range(MAXIMUM_JOBS):
        waiting.advance()
    assert waiting.takes_more
    waiting._retry_at_ms = 0.0
    waiting.retry()
    assert waiting.can_go_on and waiting.takes_more, "they are tried again, and none of them may ever be done"


def test_a_write_begins_when_the_one_before_it_of_the_same_bytes_is_done() -> None:
    answers: list[bytes] = []
    waiting = Jobs(answers.append, Latency())
    volume = Store(MemoryHome(), 16 << 20).create_volume(1, 1)
    older = Job(1, volume, tries(2), lambda: b"older", written=range(4096))
    newer = Job(2, volume, tries(0), lambda: b"newer", written=range(4000, 4100))
    newest = Job(3, volume, tries(0), lambda: b"newest", written=range(4099, 5000))
    other = Job(4, volume, tries(0), lambda: b"other", written=range(5000, 5001))
    waiting.enter(older)
    waiting.advance()
    for job in (newer, newest, other):
        waiting.enter(job)
    for _ in range(6):
        waiting._retry_at_ms = 0.0
        waiting.retry()
        waiting.advance()
    assert answers == [b"other", b"older", b"newer", b"newest"] and waiting.count == waiting.stalled == 0


def test_one_that_is_behind_another_can_be_given_up() -> None:
    answers: list[bytes] = []
    waiting = Jobs(answers.append, Latency())
    volume = Store(MemoryHome(), 16 << 20).create_volume(1, 1)
    for unique in range(3):
        waiting.enter(Job(unique, volume, tries(1), lambda: b"done", written=range(4096)))
    waiting.advance()
    waiting.interrupt(1)
    assert len(answers) == 1 and waiting.count == 2 and waiting.stalled == 1
    for _ in range(4):
        waiting._retry_at_ms = 0.0
        waiting.retry()
        waiting.advance()
    assert answers[1:] == [b"done"] * 2 and waiting.count == 0


@pytest.mark.parametrize("signal", (NotHere(), TierAway("away"), PieceMissing("missing")))
def test_a_signal_that_nobody_acts_on_is_logged_with_its_traceback(
    signal: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    def signals() -> Steps:
        yield Outcome.WENT_ON
        raise signal

    answers: list[bytes] = []
    jobs = Jobs(answers.append, Latency())
    jobs.enter(Job(7, Store(MemoryHome(), 16 << 20).create_volume(1, 1), signals(), lambda: b"done"))
    for _ in range(2):
        jobs.advance()
    assert answers == [abi.failure(7, errno.EIO)] and jobs.count == 0
    (record,) = caplog.records
    assert record.levelname == "ERROR" and record.exc_info


def test_an_error_while_the_answer_is_made_is_told_to_the_one_who_asked(caplog: pytest.LogCaptureFixture) -> None:
    def fails() -> bytes:
        raise RuntimeError("the answer cannot be made")

    answers: list[bytes] = []
    jobs = Jobs(answers.append, Latency())
    jobs.enter(Job(7, Store(MemoryHome(), 16 << 20).create_volume(1, 1), tries(0), fails))
    jobs.advance()
    assert answers == [abi.failure(7, errno.EIO)] and jobs.count == 0
    (record,) = caplog.records
    assert record.levelname == "ERROR" and record.exc_info
