"""race: who cannot be had, or fails, is left out with the reason; the store itself may not fail."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from benchlab import processes
from benchlab.bench import Bench
from benchlab.errors import BenchError
from benchlab.peers import packages, peers
from benchlab.peers.peers import Peer, Place
from benchlab.peers.race import race

undone: list[str] = []


def stub(name: str) -> peers.Opener:
    @contextmanager
    def opened(place: Place) -> Iterator[Peer]:
        try:
            yield Peer(name, place.workspace.states / "file", (), processes.nothing_to_abort, ("true",))
        finally:
            undone.append(name)

    return opened


@pytest.fixture(autouse=True)
def stubs(monkeypatch: pytest.MonkeyPatch) -> None:
    undone.clear()
    for name in (peers.LANE, peers.ZRAM, peers.TMPFS):
        monkeypatch.setitem(peers.PEERS, name, stub(name))


@pytest.fixture
def place(bench: Bench) -> Place:
    return Place(bench.workspace, 1 << 20)


NAMES = (peers.LANE, peers.ZRAM, peers.TMPFS)


def test_each_turn_begins_with_another(bench: Bench, place: Place) -> None:
    order: list[list[str]] = []
    with race(bench, NAMES, place, set()) as field:
        for number in range(4):
            order.append([])
            field.turn(number, lambda peer: order[-1].append(peer.name))
    lane, zram, tmpfs = NAMES
    assert order == [[lane, zram, tmpfs], [zram, tmpfs, lane], [tmpfs, lane, zram], [lane, zram, tmpfs]]
    assert undone == [tmpfs, zram, lane]


def test_missing_program_leaves_out(bench: Bench, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with race(bench, (peers.LANE, peers.NBDFUSE, peers.QSD), place, set()) as field:
        assert list(field.peers) == [peers.LANE]
    assert len(bench.not_measured) == 2
    assert bench.not_measured[0].startswith(f"{peers.NBDFUSE}: there is no nbdkit, and only root can install")


def test_package_that_cannot_be_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    tried: list[str] = []

    def fail(command: list[str], *_: object) -> bytes:
        tried.append(" ".join(command))
        raise BenchError("no mirror")

    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/apt-get" if name == "apt-get" else None)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(processes, "run", fail)
    with pytest.raises(BenchError, match="package nbdkit could not be installed: no mirror"):
        packages.need("nbdkit", "nbdkit")
    assert "install -y --no-install-recommends nbdkit" in tried[0]


def test_who_fails_falls_out_for_good(bench: Bench, place: Place) -> None:
    left_out: set[str] = set()

    def act(peer: Peer) -> None:
        acted.append(peer.name)
        if peer.name == peers.ZRAM:
            raise BenchError("byte 4096 is wrong")

    acted: list[str] = []
    with race(bench, NAMES, place, left_out) as field:
        field.turn(0, act)
        field.turn(0, act)
    assert acted == [peers.LANE, peers.ZRAM, peers.TMPFS, peers.LANE, peers.TMPFS]
    assert bench.not_measured == [f"{peers.ZRAM}: byte 4096 is wrong"]
    with race(bench, NAMES, place, left_out) as field:
        assert list(field.peers) == [peers.LANE, peers.TMPFS]


@pytest.mark.parametrize("error", [BenchError("byte 0 is wrong"), KeyboardInterrupt()])
def test_the_store_may_not_fail_and_all_is_undone(bench: Bench, place: Place, error: BaseException) -> None:
    def act(peer: Peer) -> None:
        raise error

    with pytest.raises(type(error)), race(bench, NAMES, place, set()) as field:
        field.turn(0, act)
    assert undone == list(reversed(NAMES))
    assert bench.not_measured == []


def test_tmpfs_and_clearing(bench: Bench, source: Path, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with race(bench, (peers.TMPFS,), place, set()) as field:
        peer = field.peers[peers.TMPFS]
        peer.clear()
        assert peer.path.stat().st_size == 0
    assert not peer.path.exists()
