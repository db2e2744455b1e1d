"""Fetching from the tier for who waits: answers, retries, interrupts, and records that the tier has lost."""

from __future__ import annotations

import errno
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from queue import SimpleQueue

import pytest

from blockstore.daemon.fuse import fuse_abi as abi
from blockstore.daemon.tiers.fetches import Fetches
from blockstore.daemon.tiers.sources import Sources
from blockstore.store.moves.mover import Mover
from blockstore.store.state.geometry import BLOCK_BYTES
from blockstore.store.state.home import MemoryHome
from blockstore.store.steps import Blocks
from blockstore.store.store import Store
from blockstore.store.tiers import TierAway
from blockstore.store.tiers.file import FileTier
from tests.store.material import noise, put
from tests.store.tiers.faulty import FaultyTier

BLOCKS = 600
WAIT_S = 60.0


class Asking:
    """A store, most of which is in a tier, and somebody who asks."""

    def __init__(self, place: Path) -> None:
        self.store = Store(MemoryHome(), 16 << 20)
        self.volume = self.store.create_volume(7, 1)
        put(self.store, self.volume, 0, b"".join(map(noise, range(BLOCKS))))
        self.tier = FaultyTier(FileTier(str(place), bytes(16)))
        self.tier.check()
        while Mover(self.store.paging, self.store.pool, self.tier, nullcontext()).out():
            pass
        self.fetches = Fetches(self.store, self.store.lock, self.tier, Sources(place.parent, ()))
        self.answers: SimpleQueue[bytes] = SimpleQueue()
        self.fetches.start()

    def ask(self, unique: int, offset: int, length: int, pid: int = 0) -> None:
        self.fetches.read(unique, 7, offset, length, pid, lambda *parts: self.answers.put(b"".join(parts)), [])

    def answer(self) -> tuple[int, int, bytes]:
        """(unique, error, data) of the next one."""
        text = self.answers.get(timeout=WAIT_S)
        _, error, unique = abi.OUT_HEADER.unpack_from(text)
        return unique, -error, text[abi.OUT_HEADER.size :]


@pytest.fixture
def asking(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Asking]:
    monkeypatch.setattr("blockstore.store.tiers.file.EXTENT_BYTES", 4 << 20)
    asking = Asking(tmp_path / "tier")
    yield asking
    asking.fetches.stop()
    asking.tier.close()
    asking.store.close()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_answers(asking: Asking) -> None:
    asking.ask(10, 5 * BLOCK_BYTES, BLOCK_BYTES)
    assert asking.answer() == (10, 0, noise(5))
    asking.ask(11, 100, 3 * BLOCK_BYTES)
    assert asking.answer() == (11, 0, b"".join(map(noise, range(4)))[100 : 100 + 3 * BLOCK_BYTES])
    assert asking.volume.refaults == 1 and asking.volume.range_requests == 1
    until(lambda: not asking.fetches.waiting)
    assert sum(asking.fetches.latency.figures()["counts"]) == 2


def test_many_at_once(asking: Asking) -> None:
    for number in range(200):
        asking.ask(number, number * BLOCK_BYTES, BLOCK_BYTES)
    found = {unique: data for unique, _, data in (asking.answer() for _ in range(200))}
    assert found == {number: noise(number) for number in range(200)}


def test_while_the_tier_is_away_it_is_asked_again(asking: Asking) -> None:
    asking.tier.chance = 1.0
    for unique in range(8):  # more than there are threads
        asking.ask(unique, unique * BLOCK_BYTES, BLOCK_BYTES)
    until(lambda: len(asking.tier.calls) > 20)
    assert asking.fetches.waiting == 8 and asking.fetches.health.failing_since
    with pytest.raises(TierAway):
        asking.fetches.fetch(Blocks(asking.volume, 0, 1))
    assert asking.answers.empty()
    asking.tier.chance = 0.0
    assert {asking.answer()[:2] for _ in range(8)} == {(unique, 0) for unique in range(8)}
    assert not asking.fetches.health.failing_since


@contextmanager
def a_thread() -> Iterator[int]:
    """The number of one, which is killed and gone at the end."""
    process = subprocess.Popen(["sleep", "100"])
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


def test_who_is_killed_gets_eintr_once_and_others_wait(asking: Asking) -> None:
    asking.tier.chance = 1.0
    with a_thread() as gone:
        pass
    with a_thread() as later:
        for unique, pid in enumerate([gone] * 6 + [later, os.getpid(), 0]):
            asking.ask(unique, unique * BLOCK_BYTES, BLOCK_BYTES, pid)
        for unique in range(9):
            assert asking.fetches.interrupt(unique)
        assert {asking.answer()[:2] for _ in range(6)} == {(unique, errno.EINTR) for unique in range(6)}
        assert not asking.fetches.interrupt(3) and not asking.fetches.interrupt(1000)
        assert asking.fetches.waiting == 3
    assert asking.answer()[:2] == (6, errno.EINTR), "the kernel tells of one signal only"
    asking.tier.chance = 0.0
    assert {asking.answer() for _ in range(2)} == {(7, 0, noise(7)), (8, 0, noise(8))}
    assert asking.answers.empty() and not asking.fetches.waiting


def test_a_tier_that_hangs_is_told_of_and_lets_killed_threads_go(
    asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("blockstore.daemon.tiers.fetches.LONG_S", 0.05)
    hangs, read = threading.Event(), asking.tier.read
    monkeypatch.setattr(asking.tier, "read", lambda *arguments: hangs.wait(WAIT_S) and read(*arguments))
    with a_thread() as gone:
        pass
    asking.ask(1, 0, BLOCK_BYTES, gone)
    asking.ask(2, 0, BLOCK_BYTES)
    until(lambda: asking.fetches.waits_long_s > 0.05)
    assert asking.fetches.interrupt(1) and asking.answer()[:2] == (1, errno.EINTR)
    hangs.set()
    assert asking.answer() == (2, 0, noise(0)) and not asking.fetches.waits_long_s


def test_a_record_that_was_damaged_on_its_way_is_asked_for_again(
    asking: Asking, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, answers = asking.tier.read, [bytes(BLOCK_BYTES)]
    monkeypatch.setattr(asking.tier, "read", lambda *arguments: answers.pop() if answers else read(*arguments))
    asking.ask(1, 5 * BLOCK_BYTES, BLOCK_BYTES)
    assert asking.answer() == (1, 0, noise(5)) and not asking.fetches.corrupt_reads


def test_many_large_reads_do_not_take_each_others_records(asking: Asking, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cache has just room for one of them."""
    monkeypatch.setattr(asking.store.decoder.cache, "_most_records", 64)
    for unique in range(40):
        asking.ask(unique, unique % 8 * 64 * BLOCK_BYTES, 64 * BLOCK_BYTES)
    for _ in range(40):
        unique, error, data = asking.answer()
        first = unique % 8 * 64
        assert not error and data == b"".join(map(noise, range(first, min(first + 64, BLOCKS))))
    assert asking.tier.calls.count("read") < 3 * 40


def test_a_job_gets_its_blocks(asking: Asking) -> None:
    ticket = asking.fetches.ask_for(Blocks(asking.volume, 3, 5))
    until(lambda: ticket.done)
    assert asking.store.read(asking.volume, 3 * BLOCK_BYTES, 2 * BLOCK_BYTES) == noise(3) + noise(4)


def test_a_ticket_that_is_given_up(asking: Asking) -> None:
    asking.tier.chance = 1.0
    ticket = asking.fetches.ask_for(Blocks(asking.volume, 3, 5))
    until(lambda: len(asking.tier.calls) > 2)
    ticket.given_up = True
    asking.tier.chance = 0.0
    asking.ask(1, 0, BLOCK_BYTES)
    assert asking.answer()[:2] == (1, 0) and not ticket.done


def test_a_lost_piece_is_an_error_and_counted(asking: Asking) -> None:
    for piece in asking.tier.pieces():
        asking.tier.delete(piece)
    asking.ask(1, 0, BLOCK_BYTES)
    assert asking.answer() == (1, errno.EIO, b"") and asking.fetches.corrupt_reads == 1


def test_a_file_that_is_gone(asking: Asking) -> None:
    del asking.store.volumes[7]
    asking.ask(1, 0, BLOCK_BYTES)
    assert asking.answer() == (1, errno.EIO, b"")
