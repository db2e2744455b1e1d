"""Pulls beside each other, and what is said of blocks that are due, by the daemon's parts alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from blockstore.daemon.tiers.arriving import Arriving
from blockstore.daemon.tiers.pull import Pull
from blockstore.daemon.tiers.sources import Place, Sources
from blockstore.store.remote import pushed
from blockstore.store.state.home import MemoryHome
from blockstore.store.steps import run
from blockstore.store.store import Store
from blockstore.store.tiers.file import FileTier
from tests.store.invariants import check_store
from tests.store.live import remembered_files as remembered_files
from tests.store.remote.test_arrivals import MEMORY, push

WAIT_S = 60.0
DUE = 37
"""Of MEMORY, in which seven come twice."""


class Host:
    """A store, and a snapshot `base` that another host has pushed to a file."""

    def __init__(self, place: Path) -> None:
        self.path = place / "tier"
        with closing(FileTier(str(self.path), pushed.id_of("base"))) as tier:
            tier.check()
            push(tier, MEMORY)
        self.store = Store(MemoryHome(), 32 << 20)
        self.store_lock = self.store.lock
        self.sources = Sources(place, ())
        self.pull = Pull(self.store, self.store_lock, self.sources)
        self.arriving = Arriving(self.store, self.store_lock, self.sources, lambda: self.pull.is_under_way)

    def pulled(self, number: int, name: str = "base") -> dict[str, Any]:
        self.store.create_volume(number, 1)
        assert not self.pull.start(number, Place(f"file:{self.path}", name))
        until(lambda: not self.pull.is_under_way)
        return self.pull.progress(number)

    def figures(self) -> tuple[int, int] | None:
        """Blocks that are due, and those of them that are lost."""
        figures = self.arriving.figures()
        return (figures["due_blocks"], figures["lost_blocks"]) if figures is not None else None


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Host]:
    monkeypatch.setattr("blockstore.store.tiers.file.EXTENT_BYTES", 4 << 20)
    host = Host(tmp_path)
    yield host
    host.pull.stop()
    host.arriving.stop()
    check_store(host.store, decode=True)
    host.sources.close()
    host.store.close()


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_whoever_pulls_is_told_of_his_own(host: Host) -> None:
    assert "error" in host.pulled(1, "none")
    assert host.pulled(2) == {"running": False, "blocks": 30, "here": 0}
    assert "error" in host.pull.progress(1), "its file would be taken for one that is whole"
    assert host.pull.progress(2)["blocks"] == 30
    assert "pull again" in host.pull.progress(3)["error"]
    host.arriving.start()


def test_how_many_are_due(host: Host) -> None:
    host.pulled(1)
    assert host.figures() == (DUE, 0)
    host.pulled(2)
    assert host.figures() == (2 * DUE, 0)
    host.arriving.start()
    until(lambda: host.figures() is None)
    assert host.store.read(host.store.volumes[2], 0, len(MEMORY)) == MEMORY


def test_how_many_are_lost(host: Host) -> None:
    host.pulled(1)
    host.sources.close()
    with closing(FileTier(str(host.path), pushed.id_of("base"))) as tier:
        for piece in tier.pieces():
            tier.delete(piece)
    host.arriving.start()
    until(lambda: host.figures() == (DUE, DUE))
    run(host.store.delete_steps(host.store.volumes[1]))
    until(lambda: host.figures() is None)


def test_a_file_goes_while_it_is_looked_at(host: Host, caplog: pytest.LogCaptureFixture) -> None:
    host.pulled(1)
    with host.store_lock:
        host.arriving.start()
        until(host.store_lock.somebody_waits)
        run(host.store._delete(host.store.volumes[1]))  # not delete_steps, which take the lock themselves
    until(lambda: host.figures() is None)
    assert "Traceback" not in caplog.text
