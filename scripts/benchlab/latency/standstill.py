"""Standstill: for how long a fault waits at most while the tables of a store grow to 4 million rows.

A fault waits for the step of a write that has begun. So a Store in memory is filled with blocks that all differ and are
quick to encode, in this process, and each step is timed. Times are processor times of this thread, and of each step the
shortest of two fills counts, which are the same: what else runs on the machine does not hit the same step twice.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

import numpy as np

from benchlab import machine
from benchlab.bench import Bench
from benchlab.figures import Figure
from blockstore.store.state.geometry import BLOCK_BYTES
from blockstore.store.state.home import MemoryHome
from blockstore.store.store import Store

LONGEST_TARGET_MS: Final = 5.0

_ROWS: Final = 4_000_000
_QUICK_ROWS: Final = 200_000
_WRITE_BLOCKS: Final = 256
_LINE_BYTES: Final = 64
_FEATURED_ONE_IN: Final = 8
"""The others have no features. Those that have some are stored in 1.1 KB each: if all had, this would take 4 GB."""

_FEATURED_BYTES: Final = 1088
_POOL_BYTES: Final = 2 << 30
_FILLS: Final = 2


def measure(bench: Bench) -> list[Figure]:
    """The longest step, and the median one beside it."""
    rows = _QUICK_ROWS if bench.quick else _ROWS
    bench.say(f"standstill: {rows} rows")
    bench.noise.sample()
    with machine.pinned(machine.cores()[0]):
        fills = [np.fromiter(_steps_ms(rows), dtype=np.float64) for _ in range(_FILLS)]
    times_ms = np.minimum.reduce(fills)
    name = f"while tables grow to {rows} rows"
    return [
        Figure("standstill", f"longest step {name}", float(times_ms.max()), "ms", LONGEST_TARGET_MS),
        Figure("standstill", f"median step {name}", float(np.median(times_ms)), "ms"),
    ]


def _steps_ms(rows: int) -> Iterator[float]:
    store = Store(MemoryHome(), _POOL_BYTES)
    try:
        volume = store.create_volume(1, 1)
        for number, data in enumerate(_contents(rows // _WRITE_BLOCKS)):
            steps = store.write_steps(volume, number * len(data), data)
            while True:
                begun = time.thread_time()
                went_on = next(steps, None)
                yield 1e3 * (time.thread_time() - begun)
                if went_on is None:
                    break
    finally:
        store.close()


def _contents(count: int) -> Iterator[memoryview]:
    """So many times _WRITE_BLOCKS blocks, no two of them the same."""
    random = np.random.default_rng(4)
    for _ in range(count):
        lines = random.integers(0, 256, (_WRITE_BLOCKS, _LINE_BYTES), dtype=np.uint8)
        blocks = np.tile(lines, BLOCK_BYTES // _LINE_BYTES)
        featured = blocks[::_FEATURED_ONE_IN, :_FEATURED_BYTES]
        featured[:] = random.integers(0, 256, featured.shape, dtype=np.uint8)
        yield memoryview(blocks.tobytes())
