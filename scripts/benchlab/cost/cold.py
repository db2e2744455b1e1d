"""What is cold: how much smaller it gets, what a read of it costs more, and what making it so takes.

Stored bytes by `blockstore analyze --cold` on the three images, whole. Times of a Store in memory, in this process, on
one core: blocks evenly from all images, written as the kernel writes them back, each read alone, as faults read them,
before and after all were encoded anew. FUSE and the kernel take the same for both, so the difference is a fault's.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from benchlab import images, machine, processes
from benchlab.bench import Bench
from benchlab.cost.engine import WRITE_BYTES
from benchlab.figures import Figure, from_repetitions
from blockstore.store.state.geometry import BLOCK_BYTES
from blockstore.store.state.home import MemoryHome
from blockstore.store.state.pool_limit import MINIMUM_LIMIT_BYTES
from blockstore.store.steps import run
from blockstore.store.store import Store
from blockstore.store.volume import Volume

STORED_TARGET: Final = 0.63
READ_TARGET_US: Final = 60.0

_ANALYZE_S: Final = 900.0
_BLOCKS: Final = 32768
_REPETITIONS: Final = 3
_READS: Final = 5
"""Of each block, the fastest of which counts: others were disturbed."""


def measure(bench: Bench) -> list[Figure]:
    """Stored bytes, then times."""
    return [_stored(bench), *_times(bench)]


def _stored(bench: Bench) -> Figure:
    bench.say("cold: analyzing " + ", ".join(bench.images))
    command: list[str | Path] = [sys.executable, "-m", "blockstore", "analyze", "--cold", "--json"]
    total = processes.run_json([*command, *bench.images.values()], processes.nothing_to_abort, _ANALYZE_S)["total"]
    cold, stored = total["stored_cold"], total["stored"]
    note = f"{cold / 1e6:.1f} of {stored / 1e6:.1f} MB, which is LZ4 with patches"
    target = None if bench.quick else STORED_TARGET  # a busybox guest is one, and not two real ones
    return Figure("cold", "stored / stored before", cold / stored, target=target, note=note)


def _times(bench: Bench) -> list[Figure]:
    blocks = np.concatenate([images.data_blocks(path) for path in bench.images.values()])
    count = min(_BLOCKS >> (4 if bench.quick else 0), len(blocks))
    chosen = blocks[np.linspace(0, len(blocks) - 1, count).astype(int)]
    middles, tails, encoding, hard = [], [], [], []
    with machine.pinned(machine.cores()[0]):
        for number in range(1 if bench.quick else _REPETITIONS):
            bench.say(f"cold: {number + 1}. time, {count:,} blocks")
            bench.noise.sample()
            store = Store(MemoryHome(), 2 * chosen.nbytes + MINIMUM_LIMIT_BYTES)
            volume = store.create_volume(1, domain_key=1)
            _write(store, volume, memoryview(chosen).cast("B"))
            warm_us = _read_us(store, volume)
            encoding.append(_encode_us(store, hard=False))
            hard.append(_encode_us(store, hard=True))
            more_us = _read_us(store, volume) - warm_us
            middles.append(float(np.percentile(more_us, 50)))
            tails.append(float(np.percentile(more_us, 99)))
            assert store.read(volume, 0, chosen.nbytes) == chosen.tobytes()
            store.close()
    return [
        from_repetitions("cold", "a read takes more, p50", middles, "us", READ_TARGET_US),
        from_repetitions("cold", "a read takes more, p99", tails, "us", READ_TARGET_US),
        from_repetitions("cold", "encoding a block anew", encoding, "us", note="processor time, in the background"),
        from_repetitions("cold", "encoding it once more, hard", hard, "us", note="the same, ten minutes later"),
    ]


def _write(store: Store, volume: Volume, data: memoryview) -> None:
    for offset in range(0, len(data), WRITE_BYTES):
        run(store.write_steps(volume, offset, data[offset : offset + WRITE_BYTES]))


def _read_us(store: Store, volume: Volume) -> npt.NDArray[np.float64]:
    """Of each block."""
    read_block, numbers = store.decoder.read_block, range(volume.size_bytes // BLOCK_BYTES)
    return np.min([_timed(read_block, volume, numbers) for _ in range(_READS)], axis=0) / 1e3  # type: ignore[no-any-return]


def _timed(read_block: Callable[[Volume, int], bytes], volume: Volume, numbers: Sequence[int]) -> list[int]:
    times_ns = []
    for number in numbers:
        started_ns = time.perf_counter_ns()
        read_block(volume, number)
        times_ns.append(time.perf_counter_ns() - started_ns)
    return times_ns


def _encode_us(store: Store, *, hard: bool) -> float:
    store.densify.begin_all(hard=hard)
    started_s = time.thread_time()
    while store.densify.step():
        pass
    return 1e6 * (time.thread_time() - started_s) / (store.densify.hard_tried if hard else store.densify.tried)
