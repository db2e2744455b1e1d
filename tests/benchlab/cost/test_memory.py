"""memory: the processes of a mount without VMs, for real."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from benchlab.bench import Bench
from benchlab.cost import memory

from blockstore.daemon.control.bill import PROCESSES


@pytest.mark.mount
@pytest.mark.skipif(os.geteuid() != 0 or not Path("/dev/fuse").exists(), reason="needs root and /dev/fuse")
def test_processes_of_a_mount(bench: Bench) -> None:
    found = memory.processes_of_a_mount(bench)
    parts_mb = {name: float(size) for name, size in (part.split() for part in found.note.split(", "))}
    assert set(parts_mb) == set(PROCESSES), found
    assert not parts_mb.pop("controller"), "there is none before there is a file"
    assert all(parts_mb.values()), found
    assert found.value == pytest.approx(sum(parts_mb.values()), abs=0.2) and found.unit == "MB"
    assert found.target == memory.PROCESSES_TARGET_MB
    assert not list(bench.workspace.states.iterdir()), "the state is left"
