"""Of the pool little is not used, also while memory is overwritten all the time."""

from __future__ import annotations

import mmap
import random

import pytest

from tests.daemon.lab import Lab, put
from tests.store.material import half

pytestmark = pytest.mark.mount

BLOCKS = 32768
AT_ONCE = 2048
ROUNDS = 12


def test_steady_random_overwrites(lab: Lab) -> None:
    mounted = lab.mount()
    path, chance = mounted.path / "vm", random.Random(1)
    put(path, b"".join(map(half, range(BLOCKS))))
    worst = 0.0
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        for number in range(ROUNDS):
            fresh = [half(BLOCKS + number * AT_ONCE + place) for place in range(AT_ONCE)]
            for place, block in enumerate(chance.sample(range(BLOCKS), AT_ONCE)):
                memory[block * 4096 : (block + 1) * 4096] = fresh[place]
            memory.flush()
            total = mounted.status()["total"]
            worst = max(worst, total["fragmentation"])
    assert total["fragmentation"] == pytest.approx(1 - total["stored"] / total["pool"])
    assert worst < 0.15
