"""Faults while another file is written at full speed: what head-of-line blocking costs (docs/decisions.md), and how
much the writer gets done meanwhile.

One process fills a file over and over, through a mapping, with content that is new each time, and writes it back.
Another evicts and faults pages of a second file on the other core. Round by round: faults alone, faults beside the
writer, and the same writer alone on zram for as long. The daemon runs where the scheduler puts it, once with the
real-time priority that it takes where it may and once without, and then pinned to the core of the faults.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from benchlab import machine, mounts, processes, programs
from benchlab.bench import Bench
from benchlab.figures import AT_LEAST, Figure, from_repetitions, ratios
from benchlab.latency import faults
from benchlab.mounts import StoreMount
from benchlab.peers import peers
from benchlab.peers.peers import Peer, Place
from benchlab.peers.race import Race, race

P99_TARGET: Final = 2.0
"""Of p99 beside the writer to p99 without."""

ORDINARY_P99_TARGET: Final = 15.0
P99_TARGET_MS: Final = 0.6
"""Without real-time priority, where a fault may have to wait for the end of another thread's turn."""

RATE_TARGET: Final = 0.95
"""Of the writer's rate to that of the same writer, alone, on zram: at least."""

_FAULT_FILE_BYTES: Final = 32 << 20
_LOAD_FILE_BYTES: Final = 128 << 20
_FAULTS: Final = 4000
_PACE_US: Final = 500
"""One after the other would be done between two write-backs, and see nothing of them: evenly in time, they see all."""

_ROUNDS: Final = 5
_LOAD_S: Final = 300.0
"""At most: it is ended when the faults are done."""

_PASS_S: Final = 60.0
"""For one pass of the writer over its file, at most."""

Milliseconds = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """How a daemon runs: pinned to the core of the faults or not, with `prefix` before its command; its targets."""

    name: str
    is_with_faults: bool = False
    prefix: tuple[str, ...] = ()
    p99_target: float | None = None
    p99_target_ms: float | None = None
    rate_target: float | None = None


CASES: Final = (
    Case("daemon free", p99_target=P99_TARGET, rate_target=RATE_TARGET),
    Case(
        "daemon free, ordinary priority",
        prefix=mounts.ORDINARY,
        p99_target=ORDINARY_P99_TARGET,
        p99_target_ms=P99_TARGET_MS,
    ),
    Case("daemon with the faults", is_with_faults=True, p99_target=P99_TARGET),
)


@dataclass
class Rounds:
    """One entry a round: the times of faults alone and beside the writer, MB/s of the writer here and on zram."""

    idle: list[Milliseconds] = field(default_factory=list)
    beside: list[Milliseconds] = field(default_factory=list)
    mb_per_s: list[float] = field(default_factory=list)
    zram_mb_per_s: list[float] = field(default_factory=list)


def measure(bench: Bench) -> list[Figure]:
    """p50, p99 and the longest, beside the writer and without, and the writer's rate."""
    scale = 2 if bench.quick else 0
    calm = faults.write_source(bench, _FAULT_FILE_BYTES >> scale)
    load = faults.write_source(bench, _LOAD_FILE_BYTES >> scale)
    figures: list[Figure] = []
    with race(bench, (peers.ZRAM,), Place(bench.workspace, load.stat().st_size), set()) as field_of_zram:
        for case in CASES:
            bench.say(f"fault under a write load: {case.name}")
            bench.noise.sample()
            figures += case_figures(case, _measure_case(bench, case, calm, load, field_of_zram))
    calm.unlink()
    load.unlink()
    return figures


def _measure_case(bench: Bench, case: Case, calm: Path, load: Path, zram: Race) -> Rounds:
    fault_core, load_core = machine.cores()
    random = np.random.default_rng(2)
    rounds = Rounds()
    core = fault_core if case.is_with_faults else None
    with StoreMount(bench.workspace, "busy", core=core, prefix=case.prefix) as mount:
        server, busy = faults.Server(mount, mount.path / "calm"), faults.Server(mount, mount.path / "busy")
        faults.fill(server, calm)

        def fault_all() -> Milliseconds:
            pages = faults.some_pages(random, calm, _FAULTS)
            return faults.fault(bench, server, pages, fault_core, pace_us=_PACE_US) / 1e6

        for number in range(2 if bench.quick else _ROUNDS):
            rounds.idle.append(fault_all())
            written = _write_beside(busy, load, load_core, _LOAD_S, lambda: rounds.beside.append(fault_all()))
            rounds.mb_per_s.append(_mb_per_s(written))

            def act(peer: Peer, seconds: float = written["seconds"]) -> None:
                rounds.zram_mb_per_s.append(_mb_per_s(_write_beside(peer, load, load_core, seconds)))

            zram.turn(number, act)
    return rounds


def _write_beside(
    file: faults.Touched, source: Path, core: int, seconds: float, work: Callable[[], None] | None = None
) -> dict[str, float]:
    """Bytes and seconds of a process that writes the file over and over, for `seconds`, or until `work` is done."""
    command: list[str | Path] = [programs.client(), "load", file.path, source, str(seconds)]
    with processes.Process(command, file.abort, core) as process:
        process.line(_PASS_S)  # the file is there, and what is written from now on replaces what was there
        if work is None:
            output = process.output(seconds + _PASS_S)
        else:
            work()
            output = process.stop(_PASS_S)
    result: dict[str, float] = json.loads(output)
    return result


def _mb_per_s(written: dict[str, float]) -> float:
    return written["bytes"] / written["seconds"] / 1e6


def case_figures(case: Case, rounds: Rounds) -> list[Figure]:
    """Of one way to run the daemon. Without zram its ratio is left out."""

    def of(share: float) -> list[float]:
        return [float(np.percentile(times, share)) for times in rounds.beside]

    idle_p99 = [float(np.percentile(times, 99)) for times in rounds.idle]
    name, p99_ratios = case.name, ratios(of(99), idle_p99)
    note = f"{float(np.median(idle_p99)):.3f} ms without the writer"
    result = [
        from_repetitions("busy", f"fault p99, writer / none, {name}", p99_ratios, target=case.p99_target, note=note),
        from_repetitions("busy", f"fault p99, {name}", of(99), "ms", target=case.p99_target_ms),
        from_repetitions("busy", f"fault p50, {name}", of(50), "ms"),
        Figure("busy", f"longest fault, {name}", max(of(100)), "ms", note=f"of {sum(map(len, rounds.beside)):,}"),
    ]
    if len(rounds.zram_mb_per_s) == len(rounds.mb_per_s):
        result.append(
            from_repetitions(
                "busy",
                f"writer's rate / zram's rewriting a file, {name}",
                ratios(rounds.mb_per_s, rounds.zram_mb_per_s),
                target=case.rate_target,
                direction=AT_LEAST,
                note=f"zram, without faults beside it: {float(np.median(rounds.zram_mb_per_s)):.0f} MB/s",
            )
        )
    result.append(from_repetitions("busy", f"writer's rate, {name}", rounds.mb_per_s, "MB/s"))
    return result
