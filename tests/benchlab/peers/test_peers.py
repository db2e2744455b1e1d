"""The client's check of what a peer keeps, and one peer with a FUSE server of its own, for real but small."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from benchlab import mounts, processes, programs
from benchlab.bench import Bench
from benchlab.errors import BenchError
from benchlab.latency import faults
from benchlab.peers import peers
from benchlab.peers.peers import Peer, Place

pytestmark = pytest.mark.skipif(shutil.which("gcc") is None, reason="needs gcc")

CHECK_S = 20.0


def check(peer: Peer, source: Path) -> None:
    processes.run([programs.client(), "check", peer.path, source], peer.abort, CHECK_S)


def test_wrong_byte_is_found(bench: Bench, source: Path) -> None:
    with peers.PEERS[peers.TMPFS](Place(bench.workspace, source.stat().st_size)) as peer:
        assert faults.fill(peer, source)["bytes"] == source.stat().st_size
        check(peer, source)
        with peer.path.open("r+b") as file:
            file.seek(70_001)
            file.write(b"\xff")
        with pytest.raises(BenchError, match="byte 70001 is wrong"):
            check(peer, source)


def test_short_file_is_found(bench: Bench, source: Path) -> None:
    with peers.PEERS[peers.TMPFS](Place(bench.workspace, source.stat().st_size)) as peer:
        peer.path.write_bytes(source.read_bytes()[:-1])
        with pytest.raises(BenchError, match="has only"):
            check(peer, source)


@pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/dev/fuse").exists() or not (shutil.which("nbdkit") and shutil.which("nbdfuse")),
    reason="needs root, /dev/fuse, nbdkit and nbdfuse",
)
@pytest.mark.mount
def test_nbdfuse_keeps_what_is_written_and_leaves_nothing(bench: Bench, source: Path) -> None:
    with peers.PEERS[peers.NBDFUSE](Place(bench.workspace, source.stat().st_size)) as peer:
        for _ in range(2):
            peer.clear()
            faults.fill(peer, source)
            check(peer, source)
        assert all(map(processes.is_alive, peer.pids))
    assert not any(map(processes.is_alive, peer.pids))
    assert not mounts.device_of(peer.path.parent)
    assert {path.name for path in bench.workspace.states.iterdir()} == {"source"}
