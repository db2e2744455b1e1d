"""Faults while another file is written at full speed: what head-of-line blocking costs (docs/decisions.md).

One process fills a file over and over, through a mapping, with content that is new each time, and writes it back.
Another evicts and faults pages of a second file on the other core; the daemon runs where the scheduler puts it, and
then pinned to the core of the faults.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from benchlab import faults, machine, processes, programs
from benchlab.bench import Bench
from benchlab.figures import Figure, from_repetitions
from benchlab.mounts import StoreMount

P99_TARGET_MS: Final = 10.0
P99_TARGET: Final = 5.0
"""Of p99 beside the writer to p99 without."""

_FAULT_FILE_BYTES: Final = 32 << 20
_LOAD_FILE_BYTES: Final = 128 << 20
_FAULTS: Final = 4000
_PACE_US: Final = 500
"""One after the other would be done between two write-backs, and see nothing of them: evenly in time, they see all."""

_ROUNDS: Final = 5
_LOAD_S: Final = 300.0
"""At most: it is ended when the faults are done."""

Milliseconds = npt.NDArray[np.float64]


def measure(bench: Bench) -> list[Figure]:
    """p50, p99 and the longest, both ways."""
    fault_core, load_core = machine.cores()
    scale = 2 if bench.quick else 0
    calm = faults.write_source(bench, _FAULT_FILE_BYTES >> scale)
    load = faults.write_source(bench, _LOAD_FILE_BYTES >> scale)
    figures: list[Figure] = []
    for name, core in (("daemon free", None), ("daemon with the faults", fault_core)):
        bench.say(f"fault under a write load: {name}")
        bench.noise.sample()
        with StoreMount(bench.workspace, "busy", core=core) as mount:
            server = faults.Server(mount, mount.path / "calm")
            faults.fill(server, calm)
            random = np.random.default_rng(2)
            idle = _rounds(bench, server, calm, fault_core, random)
            writer: list[str | Path] = [programs.client(), "load", mount.path / "busy", load, str(_LOAD_S)]
            with processes.Process(writer, mount.abort, load_core) as process:
                rounds = _rounds(bench, server, calm, fault_core, random)
                if not process.running:
                    process.output(0.0)
        figures += _figures(name, rounds, idle)
    calm.unlink()
    load.unlink()
    return figures


def _rounds(
    bench: Bench, server: faults.Server, calm: Path, core: int, random: np.random.Generator
) -> list[Milliseconds]:
    rounds = []
    for _ in range(2 if bench.quick else _ROUNDS):
        pages = faults.some_pages(random, calm, _FAULTS)
        rounds.append(faults.fault(bench, server, pages, core, pace_us=_PACE_US) / 1e6)
    return rounds


def _figures(name: str, rounds: list[Milliseconds], idle: list[Milliseconds]) -> list[Figure]:
    def of(share: float) -> list[float]:
        return [float(np.percentile(times, share)) for times in rounds]

    idle_p99 = float(np.median([np.percentile(times, 99) for times in idle]))
    beside = [p99 / idle_p99 for p99 in of(99)]
    note = f"{idle_p99:.3f} ms without the writer"
    return [
        from_repetitions("busy", f"fault p99, writer / none, {name}", beside, target=P99_TARGET, note=note),
        from_repetitions("busy", f"fault p99, {name}", of(99), "ms", target=P99_TARGET_MS),
        from_repetitions("busy", f"fault p50, {name}", of(50), "ms"),
        Figure("busy", f"longest fault, {name}", max(of(100)), "ms", note=f"of {sum(map(len, rounds)):,}"),
    ]
