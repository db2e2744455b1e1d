"""The file itself: the store beside what could stand in its place, on the same work with the same real content.

First all servers, the clients and fio share one core, with real-time priority (as in faults.py): 4 KiB faults after
eviction, then fio's jobs. So these figures say what one core can do, and a peer with more threads has no more of it.
Then nothing but the client is pinned, and whoever has a server may use the other core too, still with priority:
ingest, which is a write through a mapping and its write-back into an empty file. fio's latencies of the mmap engine say
little, because fio does not evict between two pages; a fault's latency is what client.c measures.

Every byte is checked: the real content after each kind of work, and what fio wrote by fio.
"""

from __future__ import annotations

import statistics
from collections.abc import Container
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from benchlab import machine, processes, programs
from benchlab.bench import Bench
from benchlab.figures import AT_LEAST, Figure, from_repetitions, ratios
from benchlab.latency import faults
from benchlab.peers import fiojobs, packages, peers
from benchlab.peers.fiojobs import Row, Setting
from benchlab.peers.peers import Peer, Place
from benchlab.peers.race import Race, race

FAULT_TARGETS: Final = {peers.FLOOR: 1.5, peers.NBDFUSE: 0.35, peers.ZRAM: 3.0}
"""lane / peer, p50: at most."""

INGEST_TARGETS: Final = {peers.ZRAM: 1.2, peers.NBDFUSE: 2.0}
"""lane / peer, MB/s: at least."""

JOB_TARGETS: Final = {(peers.ZRAM, "psync-randwrite-4k"): 0.5}
"""lane / peer, MB/s, on one core: at least."""

_ON_ONE_CORE: Final = (
    peers.LANE,
    peers.ZRAM,
    peers.NBDFUSE,
    peers.QSD,
    peers.TMPFS,
    peers.FLOOR,
)
_INGESTING: Final = (peers.LANE, peers.NO_PATCH, peers.ZRAM, peers.NBDFUSE, peers.QSD, peers.TMPFS)

_DATA_BYTES: Final = 64 << 20
_FAULTS: Final = 3000
_ROUNDS: Final = 9
_FIO_REPETITIONS: Final = 3
_FIO_JOB_S: Final = 1.0
_CHECK_S: Final = 60.0
_FAULT_AROUND_PAGES: Final = 16
"""What the kernel maps with one fault, of pages that are in the page cache (fault_around_bytes)."""

_PATTERN_AT: Final = 1 << 20
_JOBS: Final = ("mmap-randread-4k", "psync-randwrite-4k", "psync-read-1m")

_REAL_TIME: Final = ("chrt", "--rr", str(machine.REAL_TIME_PRIORITY))

Microseconds = dict[str, list[float]]
"""A percentile of each round, by peer."""


def measure(bench: Bench) -> list[Figure]:
    """Faults, fio's jobs and ingest; the raw data goes to `bench.kept`."""
    packages.need("fio", "fio")
    core = machine.cores()[0]
    size_bytes = _DATA_BYTES >> 2 if bench.quick else _DATA_BYTES
    source = faults.write_source(bench, size_bytes)
    left_out: set[str] = set()
    with race(bench, _ON_ONE_CORE, Place(bench.workspace, size_bytes, core), left_out) as on_one_core:
        bench.noise.sample()
        _prepare(on_one_core, source)
        p50, p99 = _faults(bench, on_one_core, source, core)
        rows = _fio(bench, on_one_core, source, core)
    with race(bench, _INGESTING, Place(bench.workspace, size_bytes), left_out) as free:
        ingest = _ingest(bench, free, source, core)
        bench.noise.sample()
    source.unlink()
    for name in left_out:
        for results in (p50, p99, ingest):
            results.pop(name, None)
    bench.kept["fio"] = {
        "jobs": [row.as_json() for row in fiojobs.medians(rows) if row.peer not in left_out],
        "faults": [{"peer": name, "p50_us": p50[name], "p99_us": p99[name]} for name in p50],
        "ingest": [{"peer": name, "mb_per_s": rates} for name, rates in ingest.items()],
        "data_bytes": size_bytes,
    }
    return [*_fault_figures(p50, p99), *ingest_figures(ingest), *job_figures(rows, left_out)]


def _prepare(field: Race, source: Path) -> None:
    """The real content in all files, checked; then all servers get their priority."""

    def act(peer: Peer) -> None:
        if peer.name != peers.FLOOR:
            faults.fill(peer, source)
            _check(peer, source)
        _hurry(peer)

    field.turn(0, act)


def _hurry(peer: Peer) -> None:
    """Its servers go before everybody with ordinary priority."""
    for pid in peer.pids:
        machine.real_time(pid)


def _check(peer: Peer, source: Path) -> None:
    """Raises BenchError at the first wrong byte; what is compared comes from the server, not from the page cache."""
    processes.run([programs.client(), "check", peer.path, source], peer.abort, _CHECK_S)


def _faults(bench: Bench, field: Race, source: Path, core: int) -> tuple[Microseconds, Microseconds]:
    """p50 and p99 of each round."""
    rounds = 3 if bench.quick else _ROUNDS
    bench.say(f"fio: faults, {rounds} rounds on core {core}: {', '.join(field.peers)}")
    p50: Microseconds = {name: [] for name in field.peers}
    p99: Microseconds = {name: [] for name in field.peers}
    random = np.random.default_rng(4)
    for number in range(rounds):
        pages = faults.some_pages(random, source, _FAULTS)

        def act(peer: Peer, pages: npt.NDArray[np.uint32] = pages) -> None:
            touched = _apart(pages) if peer.name == peers.TMPFS else pages
            times = faults.fault(bench, peer, touched, core, *_REAL_TIME)
            p50[peer.name].append(float(np.percentile(times, 50)) / 1e3)
            p99[peer.name].append(float(np.percentile(times, 99)) / 1e3)

        field.turn(number, act)
    return p50, p99


def _apart(pages: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    """No two that one fault would map: tmpfs cannot be evicted, and its pages are always in the page cache."""
    _, first = np.unique(pages // _FAULT_AROUND_PAGES, return_index=True)
    return pages[np.sort(first)]


def _fio(bench: Bench, field: Race, source: Path, core: int) -> list[Row]:
    """All jobs, all repetitions: reads of the real content, then writes, then fio's own check of what it wrote."""
    scale = 2 if bench.quick else 0
    repetitions = _FIO_REPETITIONS >> scale or 1
    pattern = bench.workspace.states / "pattern"
    pattern.write_bytes(_pattern(source))
    setting = Setting(source.stat().st_size >> scale, _FIO_JOB_S / (1 << scale), pattern, core, _REAL_TIME)
    field.peers.pop(peers.FLOOR, None)
    rows: list[Row] = []
    for jobs in (fiojobs.READ, fiojobs.WRITE):
        bench.say(f"fio: {jobs.name}, {repetitions} times: {', '.join(field.peers)}")
        for number in range(repetitions):

            def act(peer: Peer, jobs: Path = jobs, number: int = number) -> None:
                machine.warm_memory(2 * setting.size_bytes)
                reports = fiojobs.run(jobs, peer, setting, seed=1 + number)
                rows.extend(fiojobs.row(peer.name, report) for report in reports)

            field.turn(number, act)
        if jobs == fiojobs.READ:
            field.turn(0, lambda peer: _check(peer, source))
    field.turn(0, lambda peer: void(fiojobs.run(fiojobs.VERIFY, peer, setting, seed=99)))
    pattern.unlink()
    return rows


def _pattern(source: Path) -> bytes:
    """A piece of a guest's memory for fio to repeat, the first with few zeros."""
    content = np.memmap(source, dtype=np.uint8, mode="r")
    pieces = content[: len(content) // fiojobs.PATTERN_BYTES * fiojobs.PATTERN_BYTES].reshape(-1, fiojobs.PATTERN_BYTES)
    pieces = pieces[: _PATTERN_AT // fiojobs.PATTERN_BYTES]
    return bytes(pieces[int(np.argmax(np.count_nonzero(pieces, axis=1)))])


def _ingest(bench: Bench, field: Race, source: Path, core: int) -> dict[str, list[float]]:
    """MB/s of each round, into a file that is empty each time; the last content is checked."""
    rounds = 3 if bench.quick else _ROUNDS
    bench.say(f"fio: ingest, {rounds} rounds, client on core {core}, servers free: {', '.join(field.peers)}")
    rates: dict[str, list[float]] = {name: [] for name in field.peers}

    def act(peer: Peer) -> None:
        peer.clear()
        machine.warm_memory(2 * source.stat().st_size)
        done = faults.fill(peer, source, core, *_REAL_TIME)
        rates[peer.name].append(done["bytes"] / done["seconds"] / 1e6)

    field.turn(0, _hurry)
    for number in range(rounds):
        field.turn(number, act)
    field.turn(0, lambda peer: _check(peer, source))
    return rates


def _fault_figures(p50: Microseconds, p99: Microseconds) -> list[Figure]:
    lane = p50[peers.LANE]
    result = [
        from_repetitions("fio", f"fault p50, lane / {name}", ratios(lane, p50[name]), target=target)
        for name, target in FAULT_TARGETS.items()
        if name in p50
    ]
    for name, values in p50.items():
        note = f"p99: {statistics.median(p99[name]):.0f} us"
        result.append(from_repetitions("fio", f"fault p50, {name}", values, "us", note=note))
    return result


def ingest_figures(rates: dict[str, list[float]]) -> list[Figure]:
    lane = rates[peers.LANE]
    result: list[Figure] = []
    for name, target in INGEST_TARGETS.items():
        if name not in rates:
            continue
        found = ratios(lane, rates[name])
        result.append(from_repetitions("fio", f"ingest, lane / {name}", found, target=target, direction=AT_LEAST))
        plain = ratios(rates[peers.NO_PATCH], rates[name])
        result.append(from_repetitions("fio", f"ingest, {peers.NO_PATCH} / {name}", plain))
    for name, values in rates.items():
        result.append(from_repetitions("fio", f"ingest, {name}", values, "MB/s"))
    return result


def job_figures(rows: list[Row], left_out: Container[str]) -> list[Figure]:
    """A few of the ratios, repetition by repetition, most for information; all of it is in the raw data."""
    rates: dict[tuple[str, str], list[float]] = {}
    for row in rows:
        rates.setdefault(row.measure, []).append(row.mb_per_s)
    result: list[Figure] = []
    for name in (peers.NBDFUSE, peers.ZRAM):
        for job in _JOBS:
            ours, theirs = rates.get((peers.LANE, job)), rates.get((name, job))
            if not ours or not theirs or name in left_out:
                continue
            note = f"{statistics.median(ours):.0f} and {statistics.median(theirs):.0f} MB/s on one core"
            target, figure = JOB_TARGETS.get((name, job)), f"{job}, MB/s, lane / {name}"
            result.append(from_repetitions("fio", figure, ratios(ours, theirs), "", target, AT_LEAST, note))
    return result


def void(_: Any) -> None:
    """Forget a result."""
