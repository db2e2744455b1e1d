"""The pager beside a tier that fails: what it takes out, and how it finds out that a tier is back."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from blockstore.daemon.tiers.fetches import Fetches
from blockstore.daemon.tiers.pager import Pager
from blockstore.daemon.tiers.sources import Sources
from blockstore.store.codec import Buffer
from blockstore.store.state.home import MemoryHome
from blockstore.store.steps import Blocks, run
from blockstore.store.store import Store
from blockstore.store.tiers import TierAway
from blockstore.store.tiers.file import FileTier
from tests.store.invariants import check_store
from tests.store.live import remembered_files as remembered_files
from tests.store.material import noise, put
from tests.store.tiers.faulty import FaultyTier

WAIT_S = 60.0


class Paged:
    """A small pool that is full, and its pager, which is not started yet."""

    def __init__(self, place: Path) -> None:
        self.store = Store(MemoryHome(), 8 << 20)
        self.store_lock = self.store.lock
        self.volume = self.store.create_volume(1, 1)
        self.tier = FaultyTier(FileTier(str(place), bytes(16)))
        self.fetches = Fetches(self.store, self.store_lock, self.tier, Sources(place.parent, ()))
        self.pager = Pager(self.store, self.store_lock, self.tier, self.fetches)
        put(self.store, self.volume, 0, b"".join(map(noise, range(1500))))


@pytest.fixture
def paged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Paged]:
    monkeypatch.setattr("blockstore.store.tiers.file.EXTENT_BYTES", 4 << 20)
    paged = Paged(tmp_path / "tier")
    yield paged
    paged.pager.stop()
    paged.store.pool.take_back()  # nobody reads any more; a mount does so in each step
    check_store(paged.store, decode=True)
    paged.tier.close()
    paged.store.close()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_room_is_made(paged: Paged) -> None:
    before = paged.store.pool.free_bytes
    paged.pager.start()
    until(lambda: paged.store.pool.free_bytes > before + (1 << 20))
    assert paged.pager.makes_room and paged.pager.figures()["out_bytes"] >= 1 << 20
    run(paged.store.delete_steps(paged.volume))
    until(lambda: not paged.tier.pieces())


def test_a_tier_that_fails_and_is_back(paged: Paged) -> None:
    paged.tier.chance = 1.0
    paged.pager.start()
    until(lambda: bool(paged.pager.health.failing_since))
    assert not paged.pager.makes_room and not paged.store.pool.pieces.count
    paged.tier.chance = 0.0
    until(lambda: paged.pager.makes_room and paged.store.pool.pieces.count > 0)


def test_reads_that_failed_are_no_reason_to_warn_for_ever(paged: Paged) -> None:
    paged.pager.start()
    until(lambda: paged.store.pool.pieces.count > 0)
    paged.tier.chance = 1.0
    with pytest.raises(TierAway):
        paged.fetches.fetch(Blocks(paged.volume, 0, 1))
    until(lambda: bool(paged.fetches.health.failing_since) and bool(paged.pager.health.failing_since))
    paged.tier.chance = 0.0
    until(lambda: not paged.fetches.health.failing_since and not paged.pager.health.failing_since)


def test_whether_a_tier_that_takes_nothing_is_read_is_found_out(paged: Paged, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full one is read as before; nobody needs to read from one that is away for that to be known."""

    def put_one(piece: int, data: Buffer) -> None:
        if paged.store.pool.pieces.count:
            raise TierAway("it is full")
        paged.tier.inner.put(piece, data)

    monkeypatch.setattr(paged.tier, "put", put_one)
    paged.pager.start()
    until(lambda: bool(paged.pager.health.failing_since))
    assert paged.store.pool.pieces.count == 1 and not paged.fetches.health.failing_since
    paged.tier.chance = 1.0
    until(lambda: bool(paged.fetches.health.failing_since))
