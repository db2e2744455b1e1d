"""A start on existing state: reading all tables, as the store grows; and a whole restart, from kill -9 to an answer."""

from __future__ import annotations

import os
import signal
import stat
import statistics
import time
from pathlib import Path
from typing import Final

import numpy as np

from benchlab import machine, processes
from benchlab.bench import Bench
from benchlab.errors import BenchError
from benchlab.figures import Figure, from_repetitions
from benchlab.mounts import StoreMount
from blockstore.daemon.namespace.names import ROOT, Names
from blockstore.store.state.geometry import BLOCK_BYTES
from blockstore.store.state.home import DirectoryHome
from blockstore.store.steps import run
from blockstore.store.store import Store
from blockstore.store.volume import Volume

START_TARGET_S: Final = 1.0
"""For FULL_BYTES of logical memory."""

STALL_TARGET_S: Final = 1.5

FULL_BYTES: Final = 4 << 30
STEPS: Final = 4
"""Sizes that are measured, each twice the one before it."""

REPETITIONS: Final = 5
PIECE_BYTES: Final = 8 << 20
POOL_SHARE: Final = 0.75
"""Of logical memory: the blocks compress to a half."""

ANSWER_S: Final = 60.0


def measure(bench: Bench) -> list[Figure]:
    """Seconds; sizes are scaled down where memory is short."""
    full = _affordable(FULL_BYTES >> (3 if bench.quick else 0))
    state = bench.workspace.states / "restart"
    figures, stored = [], 0
    for step in range(STEPS):
        size = full >> (STEPS - 1 - step)
        bench.say(f"start: on {size >> 20} MiB of logical memory")
        _grow(state, stored, size)
        stored = size
        seconds = [_start_s(state, size) for _ in range(REPETITIONS)]
        target = START_TARGET_S if size == full else None
        figures.append(from_repetitions("start", f"tables read, {size >> 20} MiB logical", seconds, "s", target))
    with StoreMount(bench.workspace, "restart", "--pool-limit", str(int(full * POOL_SHARE))) as mount:
        stalls = [restart_s(mount) for _ in range(REPETITIONS)]
    name = f"kill -9 to the next answer, {full >> 20} MiB logical"
    figures.append(Figure("start", name, statistics.median(stalls), "s", STALL_TARGET_S, high=max(stalls)))
    return figures


def _affordable(size_bytes: int) -> int:
    """As much as half of the available memory holds."""
    while size_bytes * POOL_SHARE > machine.available_bytes() / 2 and size_bytes > PIECE_BYTES:
        size_bytes //= 2
    return size_bytes


def _grow(state: Path, old_bytes: int, new_bytes: int) -> None:
    """Unique blocks, half of each random."""
    store = Store(DirectoryHome(state), int(FULL_BYTES * POOL_SHARE), patching=False)
    try:
        volume = next(iter(store.volumes.values()), None) or _create(state, store)
        generator = np.random.default_rng(old_bytes)
        for offset in range(old_bytes, new_bytes, PIECE_BYTES):
            blocks = np.zeros((PIECE_BYTES // BLOCK_BYTES, BLOCK_BYTES), dtype=np.uint8)
            blocks[:, : BLOCK_BYTES // 2] = generator.integers(0, 256, (len(blocks), BLOCK_BYTES // 2), dtype=np.uint8)
            run(store.write_steps(volume, offset, blocks.reshape(-1).data))
    finally:
        store.close()


def _create(state: Path, store: Store) -> Volume:
    names = Names(state / "names.sqlite", 0, 0)
    made = names.create(
        ROOT, b"vm", stat.S_IFREG | 0o600, 0, 0, before=lambda made: void(store.create_volume(made.inode, made.domain))
    )
    names.close()
    return store.volumes[made.inode]


def void(_: object) -> None:
    """Forget a result."""


def _start_s(state: Path, size_bytes: int) -> float:
    before = time.perf_counter()
    store = Store(DirectoryHome(state), int(FULL_BYTES * POOL_SHARE), patching=False)
    seconds = time.perf_counter() - before
    try:
        (volume,) = store.volumes.values()
        if volume.touched_blocks != size_bytes // BLOCK_BYTES:
            raise BenchError("the state was not found as it was left")
    finally:
        store.close()
    return seconds


def restart_s(mount: StoreMount) -> float:
    """Kill the daemon; seconds until its successor answers."""
    pid = int(mount.status()["total"]["daemon_pid"])
    os.kill(pid, signal.SIGKILL)
    before = time.perf_counter()
    processes.run(["stat", "--file-system", mount.path], mount.abort, ANSWER_S)
    seconds = time.perf_counter() - before
    if int(mount.status()["total"]["daemon_pid"]) == pid:
        raise BenchError("the daemon was not replaced")
    return seconds
