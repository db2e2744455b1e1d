"""Growth: what ingest, faults, tables and a start cost as the store grows from 256 MiB to 32 GiB of logical memory.

One mount, filled file after file with the memory of real guests, of which each further copy has 64 bytes of every block
changed, so that nothing is shared and most can be patched. At each doubling: how fast the last file went in, how long
faults of pages from all over the store take, how large the tables are, and how long the daemon is gone after kill -9.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Final

import numpy as np

from benchlab import images, machine
from benchlab.bench import Bench
from benchlab.cost.start import restart_s
from benchlab.errors import BenchError
from benchlab.figures import Figure
from benchlab.latency import faults
from benchlab.mounts import StoreMount

FLAT_TARGET: Final = 1.2
"""The largest store's cost to the smallest's."""

TABLES_TARGET_PERCENT: Final = 1.5
RESTART_TARGET_S: Final = 2.0
"""For LAST_BYTES of logical memory, or as much of it as this machine has room for."""

FIRST_BYTES: Final = 256 << 20
LAST_BYTES: Final = 32 << 30
QUICK_LAST_BYTES: Final = 512 << 20

_PIECE_BYTES: Final = 64 << 20
"""Of one file: what is timed at each size is the last few of them."""

_TIMED_PIECES: Final = 3
_FAULTS_A_FILE: Final = 400
_FAULTED_FILES: Final = 5
_RESTARTS: Final = 3
_POOL_SHARE: Final = 0.4
"""Of the logical memory: more than what is stored of guests' memory, and less than what this machine must have free."""

_QUICK_POOL_SHARE: Final = 0.75
"""A quick bench has little guests, and each block of theirs for the first time."""

COMPARED_FROM_BYTES: Final = 1 << 30
"""What is smaller is measured too, and has little to do with how a store grows: caches, a file or two."""


@dataclass
class Point:
    """What was measured at one size."""

    logical_bytes: int
    stored_bytes: int
    ingest_mb_per_s: float
    fault_p50_us: float
    fault_p99_us: float
    tables_percent: float
    start_s: float


def measure(bench: Bench) -> list[Figure]:
    """Two ratios, largest to smallest, the tables and a restart; `bench.kept["growth"]` is the list of points."""
    share = _QUICK_POOL_SHARE if bench.quick else _POOL_SHARE
    last = _affordable(QUICK_LAST_BYTES if bench.quick else LAST_BYTES, share)
    points: list[Point] = []
    core = machine.cores()[0]
    with StoreMount(bench.workspace, "growth", "--pool-limit", str(int(last * share)), core=core) as mount:
        rates: list[float] = []
        servers: list[faults.Server] = []
        size = FIRST_BYTES
        for name, blocks in _pieces(bench, last):
            source = bench.workspace.states / "source"
            blocks.tofile(source)
            server = faults.Server(mount, mount.path / name)
            done = faults.fill(server, source)
            source.unlink()
            servers.append(server)
            rates.append(done["bytes"] / done["seconds"] / 1e6)
            if len(servers) * _PIECE_BYTES >= size:
                bench.say(f"growth: {size >> 20} MiB of {last >> 20}")
                points.append(_point(bench, mount, servers, size, statistics.median(rates[-_TIMED_PIECES:]), core))
                size *= 2
    bench.kept["growth"] = [asdict(point) for point in points]
    return figures(points)


def _affordable(size_bytes: int, share: float) -> int:
    """As much as leaves a third of the available memory free."""
    while size_bytes * share > machine.available_bytes() * 2 / 3:
        if size_bytes == FIRST_BYTES:
            raise BenchError(f"growth wants {size_bytes * share / 2**20:.0f} MiB of memory, and half of that free")
        size_bytes //= 2
    return size_bytes


def _pieces(bench: Bench, size_bytes: int) -> Iterator[tuple[str, images.Blocks]]:
    """Files of _PIECE_BYTES: the images in turn, then variations of them."""
    count = _PIECE_BYTES // images.BLOCK_BYTES
    number = 0
    left: images.Blocks = np.empty((0, images.BLOCK_BYTES), dtype=np.uint8)
    for _, blocks in images.fill_up(bench.images, size_bytes):
        left = np.concatenate([left, blocks])
        while len(left) >= count:
            yield f"part{number}", left[:count]
            left, number = left[count:], number + 1


def _point(
    bench: Bench, mount: StoreMount, servers: list[faults.Server], size_bytes: int, rate: float, core: int
) -> Point:
    bench.noise.sample()
    random = np.random.default_rng(size_bytes)
    times: list[faults.Nanoseconds] = []
    for place in random.choice(len(servers), min(_FAULTED_FILES, len(servers)), replace=False).tolist():
        pages = random.permutation(_PIECE_BYTES // images.BLOCK_BYTES)[:_FAULTS_A_FILE].astype(np.uint32)
        times.append(faults.fault(bench, servers[place], pages, core))
    all_us = np.concatenate(times) / 1e3
    total = mount.status()["total"]
    return Point(
        size_bytes,
        total["stored"],
        rate,
        float(np.percentile(all_us, 50)),
        float(np.percentile(all_us, 99)),
        100 * total["tables"] / (total["touched"] - total["zero"]),
        statistics.median(restart_s(mount) for _ in range(_RESTARTS)),
    )


def _size_of(point: Point) -> int:
    return point.logical_bytes


def figures(points: list[Point]) -> list[Figure]:
    """Of all sizes, the largest last."""
    first = max((point for point in points if point.logical_bytes <= COMPARED_FROM_BYTES), key=_size_of)
    last = points[-1]
    sizes = f"{last.logical_bytes >> 20} / {first.logical_bytes >> 20} MiB"
    result = [
        Figure("growth", f"fault p50, {sizes}", last.fault_p50_us / first.fault_p50_us, target=FLAT_TARGET),
        Figure("growth", f"ingest a byte, {sizes}", first.ingest_mb_per_s / last.ingest_mb_per_s, target=FLAT_TARGET),
        Figure(
            "growth",
            "tables / memory that holds data, largest store",
            last.tables_percent,
            "%",
            TABLES_TARGET_PERCENT,
        ),
        Figure(
            "growth",
            f"kill -9 to the next answer, {last.logical_bytes >> 20} MiB logical",
            last.start_s,
            "s",
            RESTART_TARGET_S,
        ),
    ]
    for point in points:
        note = (
            f"ingest {point.ingest_mb_per_s:.0f} MB/s; fault p99 {point.fault_p99_us:.0f} us; tables "
            f"{point.tables_percent:.2f} %; stored {point.stored_bytes / 2**20:.0f} MiB; "
            f"kill -9 to the next answer {point.start_s:.2f} s"
        )
        result.append(
            Figure("growth", f"fault p50, {point.logical_bytes >> 20} MiB", point.fault_p50_us, "us", note=note)
        )
    return result
