"""Faults of four client threads at once on two cores, against those of one: what the second core is worth.

One mount, as it is without options, left to the scheduler like its clients, which have ordinary priority, as virtual
processors have. In turns, many rounds, one thread and four touch the same pages of a file that left the page cache.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from benchlab import machine, processes, programs
from benchlab.bench import Bench
from benchlab.figures import AT_LEAST, Figure, from_repetitions, ratios
from benchlab.latency import faults
from benchlab.mounts import StoreMount

TARGET: Final = 1.6
"""Faults a second of THREADS threads to those of one: at least."""

THREADS: Final = 4

_DATA_BYTES: Final = 32 << 20
_FAULTS: Final = 8000
_ROUNDS: Final = 15
_QUICK_ROUNDS: Final = 3
_CLIENT_S: Final = 60.0


def measure(bench: Bench) -> list[Figure]:
    """The ratio, and both rates."""
    cores = machine.cores()
    if len(set(cores)) < 2:
        bench.leave_out("faults of several threads", "there is one core")
        return []
    rounds = _QUICK_ROUNDS if bench.quick else _ROUNDS
    bench.say(f"fault: {rounds} rounds of one client thread, and of {THREADS}, on cores {cores[0]} and {cores[1]}")
    bench.noise.sample()
    source = faults.write_source(bench, _DATA_BYTES)
    rates: dict[int, list[float]] = {1: [], THREADS: []}
    random = np.random.default_rng(5)
    with StoreMount(bench.workspace, "clients") as mount:
        server = faults.Server(mount, mount.path / "vm")
        faults.fill(server, source)
        listed = bench.workspace.states / "pages"
        for number in range(rounds):
            listed.write_bytes(faults.some_pages(random, source, _FAULTS).tobytes())
            for threads in sorted(rates, reverse=bool(number % 2)):
                rates[threads].append(faults_per_s(server, listed, threads, cores))
    source.unlink()
    return figures(rates[1], rates[THREADS])


def faults_per_s(file: faults.Touched, pages: Path, threads: int, cores: tuple[int, int]) -> float:
    """The rate at which so many threads of one process, on these cores, get the pages whose numbers are in a file."""
    pinned = ("taskset", "--cpu-list", ",".join(map(str, cores)))
    command: list[str | Path] = [*pinned, programs.client(), "faults", file.path, pages, str(threads)]
    done = processes.run_json(command, file.abort, _CLIENT_S)
    return float(done["faults"] / done["seconds"])


def figures(one: list[float], several: list[float]) -> list[Figure]:
    """Of faults a second, one entry a round."""
    name = f"faults a second, {THREADS} client threads"
    found = ratios(several, one)
    return [
        from_repetitions("fault", f"{name} / one, two cores", found, target=TARGET, direction=AT_LEAST),
        from_repetitions("fault", f"{name}, two cores", several, "/s"),
        from_repetitions("fault", "faults a second, one client thread, two cores", one, "/s"),
    ]
