"""A lane that takes too much of its core loses its real-time priority until it rests. Time is an argument."""

from __future__ import annotations

import logging
import os

import pytest

from blockstore.daemon.lane.lane_priority import MOST_OF_A_CORE, REST_WINDOWS, WINDOW_S, LanePriority

TID = 4321


class Scheduler:
    """What the kernel is asked for; `now_s` and `cpu_s` are moved by the test."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[int] = []
        self.refusal: OSError | None = None
        self.now_s = self.cpu_s = 100.0
        monkeypatch.setattr(os, "sched_setscheduler", self.set)

    def set(self, tid: int, policy: int, parameters: os.sched_param) -> None:
        assert tid == TID and parameters.sched_priority == (policy == os.SCHED_RR)
        if self.refusal is not None:
            raise self.refusal
        self.asked.append(policy)

    def priority(self) -> LanePriority:
        made = LanePriority(TID, lambda: self.cpu_s, lambda: self.now_s)
        made.take()
        return made

    def pass_window(self, share: float) -> None:
        self.now_s += 1.01 * WINDOW_S
        self.cpu_s += 1.01 * WINDOW_S * share


@pytest.fixture
def scheduler(monkeypatch: pytest.MonkeyPatch) -> Scheduler:
    return Scheduler(monkeypatch)


def test_it_is_kept_while_others_get_their_part(scheduler: Scheduler) -> None:
    priority = scheduler.priority()
    for _ in range(50):
        scheduler.pass_window(MOST_OF_A_CORE - 0.01)
        priority.look()
    assert priority.is_real_time and scheduler.asked == [os.SCHED_RR]


def test_it_is_dropped_at_once_and_taken_again_after_a_rest(
    scheduler: Scheduler, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    priority = scheduler.priority()
    for _ in range(2):
        scheduler.pass_window(0.95)
        priority.look()
        assert not priority.is_real_time
        for _ in range(REST_WINDOWS - 1):
            scheduler.pass_window(0.1)
            priority.look()
        assert not priority.is_real_time
        scheduler.pass_window(0.1)
        priority.look()
        assert priority.is_real_time
    assert scheduler.asked == [os.SCHED_RR, os.SCHED_OTHER] * 2 + [os.SCHED_RR]
    assert caplog.text.count("95 % of a core") == 1


def test_a_burst_shorter_than_the_window_is_nothing(scheduler: Scheduler) -> None:
    priority = scheduler.priority()
    scheduler.now_s += WINDOW_S / 2
    scheduler.cpu_s += WINDOW_S / 2
    priority.look()
    assert priority.is_real_time


def test_where_it_is_not_permitted_the_log_says_so_once(scheduler: Scheduler, caplog: pytest.LogCaptureFixture) -> None:
    scheduler.refusal = PermissionError(1, "Operation not permitted")
    priority = scheduler.priority()
    for share in (1.0, *[0.0] * 2 * REST_WINDOWS):
        scheduler.pass_window(share)
        priority.look()
    assert not priority.is_real_time and scheduler.asked == []
    (record,) = caplog.records
    assert (
        record.levelno == logging.WARNING and "no real-time priority (Operation not permitted)" in record.getMessage()
    )
