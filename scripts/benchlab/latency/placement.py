"""Faults, by the cores on which client and daemon run: what wake-ups across cores cost, and what the lane that follows
the faults takes off that (docs/decisions.md, "Where a wake-up costs least").

The same file on five mounts, whose clients fault in turns, many rounds. All have ordinary priority, as VMs have: with
real-time priority the kernel would move a client away from the core of its lane. In the other groups client and daemon
share a core.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from benchlab import machine, processes
from benchlab.bench import Bench
from benchlab.figures import Figure, from_repetitions, ratios
from benchlab.latency import faults
from benchlab.mounts import FloorMount, StoreMount

TARGET: Final = 1.2
"""Of the lane that follows, to daemon and client pinned to one core."""

_DATA_BYTES: Final = 32 << 20
_FAULTS: Final = 8000
_SETTLING: Final = 4000
"""The first of them, which do not count: the lane needs some two thousand to see that they come from another core."""

_ROUNDS: Final = 15
_QUICK_ROUNDS: Final = 3


@dataclass(frozen=True)
class _Case:
    """A server; the core of its client, None where the scheduler chooses; that of a busy loop, if there is one."""

    name: str
    server: faults.Server
    client_core: int | None
    busy_core: int | None = None


def measure(bench: Bench) -> list[Figure]:
    """p50 and p99 of each case, and p50 as a ratio to client and daemon on one core."""
    core, other = machine.cores()
    rounds = _QUICK_ROUNDS if bench.quick else _ROUNDS
    bench.say(f"placement: {rounds} rounds on cores {core} and {other}")
    bench.noise.sample()
    source = faults.write_source(bench, _DATA_BYTES)
    with ExitStack() as stack:
        cases = _cases(bench, stack, source, core, other)
        random = np.random.default_rng(3)
        for number in range(rounds):
            pages = faults.some_pages(random, source, _FAULTS)
            turn = number % len(cases)
            for case in cases[turn:] + cases[:turn]:
                with _busy_loop(case.busy_core):
                    times = faults.fault(bench, case.server, pages, case.client_core)[_SETTLING:]
                case.server.p50.append(float(np.percentile(times, 50)) / 1e3)
                case.server.p99.append(float(np.percentile(times, 99)) / 1e3)
        bench.noise.sample()
    source.unlink()
    return _figures({case.name: case.server for case in cases})


def _cases(bench: Bench, stack: ExitStack, source: Path, core: int, other: int) -> list[_Case]:
    def store(name: str, daemon_core: int | None, lane_cpu: str) -> faults.Server:
        options = ("--no-patch", "--lane-cpu", lane_cpu)
        mount = stack.enter_context(StoreMount(bench.workspace, name, *options, core=daemon_core))
        server = faults.Server(mount, mount.path / "vm")
        faults.fill(server, source)
        return server

    def again(server: faults.Server) -> faults.Server:
        return faults.Server(server.mount, server.path)

    follow, none = store("follow", None, "follow"), store("none", None, "none")
    floor = stack.enter_context(FloorMount(bench.workspace, source.stat().st_size, core))
    return [
        _Case("one core", store("together", core, "none"), core),
        _Case("two cores", store("apart", other, "none"), core),
        _Case("both free, follow", follow, None),
        _Case("both free, none", none, None),
        _Case("client pinned, follow", again(follow), core),
        _Case("client pinned, none", again(none), core),
        _Case("client on the other core, follow", again(follow), other),
        _Case("client on the other core, none", again(none), other),
        _Case("one core with a busy loop, follow", again(follow), core, core),
        _Case("one core with a busy loop, none", again(none), core, core),
        _Case("floor on one core", faults.Server(floor, floor.path / "file"), core),
    ]


def _busy_loop(core: int | None) -> AbstractContextManager[object]:
    """A process that uses all of a core, with ordinary priority, as another virtual processor may."""
    if core is None:
        return nullcontext()
    return processes.Process(["sh", "-c", "while :; do :; done"], processes.nothing_to_abort, core)


def _figures(servers: dict[str, faults.Server]) -> list[Figure]:
    base = servers["one core"].p50
    result = [
        from_repetitions(
            "placement",
            f"{name} / one core, p50",
            ratios(server.p50, base),
            target=TARGET if name.endswith("free, follow") else None,
        )
        for name, server in servers.items()
        if server.p50 is not base and not name.startswith("floor")
    ]
    for name, server in servers.items():
        result.append(from_repetitions("placement", f"{name}, p50", server.p50, "us"))
        result.append(from_repetitions("placement", f"{name}, p99", server.p99, "us"))
    return result
