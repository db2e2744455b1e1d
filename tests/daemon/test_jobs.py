"""Jobs of the lane that wait for room: how many there are, whoever asks, whenever."""

from __future__ import annotations

from collections.abc import Iterator

from blockstore.daemon.door import Door
from blockstore.daemon.jobs import Job, Jobs
from blockstore.daemon.latency import Latency
from blockstore.store.home import MemoryHome
from blockstore.store.store import Store


def tries(failures: int) -> Iterator[bool]:
    """Steps that find no room so often, and then are done."""
    for _ in range(failures):
        yield False


def test_a_job_that_is_tried_again_still_waits() -> None:
    answers: list[bytes] = []
    waiting = Jobs(Door(), answers.append, lambda job: None, Latency())
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
    waiting = Jobs(Door(), answers.append, lambda job: None, Latency())
    volume = Store(MemoryHome(), 16 << 20).create_volume(1, 1)
    waiting.enter(Job(7, volume, tries(9), lambda: b"done"))
    waiting.advance()
    waiting.interrupt(7)
    assert len(answers) == 1 and waiting.stalled == waiting.count == 0
