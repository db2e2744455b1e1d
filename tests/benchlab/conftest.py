"""Fixtures of the bench's tests: a Bench with a workspace, which measures nothing by itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from benchlab import mounts
from benchlab.bench import Bench
from benchlab.machine import Noise


@pytest.fixture
def bench() -> Iterator[Bench]:
    with mounts.workspace() as workspace:
        yield Bench(None, workspace, Noise(), quick=True)


@pytest.fixture
def source(bench: Bench) -> Path:
    """1 MiB that is neither zero nor random."""
    path = bench.workspace.states / "source"
    path.write_bytes(b"".join(number.to_bytes(4, "big") * 64 for number in range(4096)))
    return path
