"""Faults while cold blocks are encoded anew, against faults while that is off; and how many blocks a second that does.

One mount, left to the scheduler. A client faults pages of one file: now and then, as a VM that idles; and one after the
other. The same now and then beside a busy loop on each core, at ordinary priority, where encoding finds no idle core
and keeps to its budget. Before each of them another file is deleted and written anew, so that there is something to
encode. In turns, many rounds, with encoding on and off.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from benchlab import images, machine, processes
from benchlab.bench import Bench
from benchlab.figures import AT_LEAST, Figure, from_repetitions, ratios
from benchlab.latency import faults
from benchlab.mounts import StoreMount
from blockstore.daemon.options import DEFAULT_BACKGROUND_CPU

TARGET: Final = 1.3
"""Of the 99th percentile of faults while encoding goes on, to that while it is off."""

RATE_TARGET: Final = 2.0
"""Of blocks a second on idle cores to those within the budget: at least."""

_FAULT_FILE_BYTES: Final = 32 << 20
_COLD_FILE_BYTES: Final = 192 << 20
_ROUNDS: Final = 7
_COMMAND_S: Final = 60.0


@dataclass(frozen=True)
class Case:
    """One fault every `pace_us`, or one after the other; beside busy loops or not."""

    name: str
    faults: int
    pace_us: int
    is_busy: bool = False


NOW_AND_THEN: Final = Case("now and then", 400, 6000)
BUSY: Final = Case("now and then, busy cores", 400, 6000, is_busy=True)
CASES: Final = (NOW_AND_THEN, Case("one after the other", 6000, 0), BUSY)


@dataclass
class Found:
    """Of one case, an entry a round: percentiles in us by whether encoding is on, and blocks encoded a second."""

    p50: dict[bool, list[float]] = field(default_factory=lambda: {True: [], False: []})
    p99: dict[bool, list[float]] = field(default_factory=lambda: {True: [], False: []})
    per_s: list[float] = field(default_factory=list)


def measure(bench: Bench) -> list[Figure]:
    """Ratios of p50 and p99 of each case, and the rates."""
    rounds = 2 if bench.quick else _ROUNDS
    cold_bytes = _COLD_FILE_BYTES >> 2 if bench.quick else _COLD_FILE_BYTES
    bench.say(f"background: {rounds} rounds, {cold_bytes >> 20} MiB to encode in each")
    source = faults.write_source(bench, cold_bytes + _FAULT_FILE_BYTES)
    faulted, cold = _split(bench, source)
    random = np.random.default_rng(7)
    found = {case: Found() for case in CASES}
    with StoreMount(bench.workspace, "background", "--cold-after", "0", "--background-cpu", "0") as mount:
        server = faults.Server(mount, mount.path / "vm")
        faults.fill(server, faulted)
        for number in range(rounds):
            bench.noise.sample()
            for case in CASES:
                for is_on in (True, False) if number % 2 else (False, True):
                    _refill(mount, cold)
                    pages = faults.some_pages(random, faulted, case.faults)
                    _round(bench, mount, server, case, found[case], pages, is_on=is_on)
    for path in (faulted, cold):
        path.unlink()
    return figures(found)


def _split(bench: Bench, source: Path) -> tuple[Path, Path]:
    """Its first part and the rest, which has no block of it."""
    blocks = images.BLOCK_BYTES
    data = source.read_bytes()
    source.unlink()
    first, rest = bench.workspace.states / "faulted", bench.workspace.states / "cold"
    end = min(_FAULT_FILE_BYTES, len(data) // blocks // 4 * blocks)
    first.write_bytes(data[:end])
    rest.write_bytes(data[end:])
    return first, rest


def _refill(mount: StoreMount, source: Path) -> None:
    path = mount.path / "cold"
    processes.run(["rm", "-f", path], mount.abort, _COMMAND_S)
    faults.fill(faults.Server(mount, path), source)


def _round(
    bench: Bench,
    mount: StoreMount,
    server: faults.Server,
    case: Case,
    found: Found,
    pages: npt.NDArray[np.uint32],
    *,
    is_on: bool,
) -> None:
    with _busy_loops(case.is_busy):
        if is_on:
            _set(mount, DEFAULT_BACKGROUND_CPU)
        before, started_s = _tried(mount), time.monotonic()
        times = faults.fault(bench, server, pages, machine.cores()[0], pace_us=case.pace_us)
        took_s, tried = time.monotonic() - started_s, _tried(mount) - before
    _set(mount, 0)
    found.p50[is_on].append(float(np.percentile(times, 50)) / 1e3)
    found.p99[is_on].append(float(np.percentile(times, 99)) / 1e3)
    if is_on:
        found.per_s.append(tried / took_s)


def _tried(mount: StoreMount) -> int:
    return int(mount.status()["total"]["background"]["tried_blocks"])


def _set(mount: StoreMount, percent: float) -> None:
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "blockstore",
        "set",
        mount.path,
        "--background-cpu",
        str(percent),
    ]
    processes.run(command, mount.abort, _COMMAND_S)


@contextmanager
def _busy_loops(is_busy: bool) -> Iterator[None]:
    """One on each core, of ordinary priority."""
    loops = [
        subprocess.Popen(["taskset", "--cpu-list", str(core), sys.executable, "-c", "while True: pass"])
        for core in (sorted(os.sched_getaffinity(0)) if is_busy else [])
    ]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def figures(found: dict[Case, Found]) -> list[Figure]:
    """The lines of the table."""
    result = []
    for case, of in found.items():
        name = f"faults {case.name}, encoding / off"
        result += [
            from_repetitions("background", f"{name}, p99", ratios(of.p99[True], of.p99[False]), target=TARGET),
            from_repetitions("background", f"{name}, p50", ratios(of.p50[True], of.p50[False])),
            from_repetitions("background", f"faults {case.name}, encoding, p99", of.p99[True], "us"),
            from_repetitions("background", f"blocks a second, faults {case.name}", of.per_s, "/s"),
        ]
    rates = ratios(found[NOW_AND_THEN].per_s, found[BUSY].per_s)
    result.append(
        from_repetitions(
            "background", "blocks a second, idle cores / busy cores", rates, target=RATE_TARGET, direction=AT_LEAST
        )
    )
    return result
