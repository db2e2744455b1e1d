"""Restoring a VM with and without prefetching: what it has to wait for in its first second, and when it answers."""

from __future__ import annotations

import sys
import time
from typing import Final

from guestlab.guest import Guest

from benchlab import processes
from benchlab.bench import Bench
from benchlab.errors import BenchError
from benchlab.figures import Figure, from_repetitions, ratios
from benchlab.mounts import StoreMount
from blockstore.vm.fork.prefetch import LOOKS_S
from blockstore.vm.snapshot import working_set

FAULTS_TARGET: Final = 0.5
ANSWER_TARGET: Final = 1.0

_SNAPSHOT: Final = "warm"
_FIRST_S: Final = 1.0
_SAVING_S: Final = 0.5
_UP_S: Final = 30.0
_COMMAND: Final = (sys.executable, "-m", "blockstore")


def measure(bench: Bench, mount: StoreMount, source: Guest, repetitions: int) -> list[Figure]:
    """Turn by turn, so that noise that lasts is in both."""
    bench.say("fork: restored with and without prefetching")
    _run(mount, "snapshot", "vm", _SNAPSHOT)
    _record(mount, source)
    without, with_it = [], []
    for _ in range(repetitions):
        without.append(_restored(mount, source, "--no-prefetch"))
        with_it.append(_restored(mount, source, "--prefetch"))
    _run(mount, "snapshots", "delete", _SNAPSHOT)
    (blocks, answers), (blocks_before, answers_before) = (zip(*each, strict=True) for each in (with_it, without))
    faults = "blocks that a restored guest waits for in its first second"
    answer = "restore of a warm guest to an answer on its console"
    return [
        from_repetitions("fork", f"{faults}, without prefetch", blocks_before),
        from_repetitions("fork", f"{faults}, with it", blocks),
        from_repetitions(
            "fork", "the same blocks, with prefetch against without", ratios(blocks, blocks_before), "", FAULTS_TARGET
        ),
        from_repetitions("fork", f"{answer}, without prefetch", answers_before, "s"),
        from_repetitions("fork", f"{answer}, with it", answers, "s"),
        from_repetitions(
            "fork", "the same time, with prefetch against without", ratios(answers, answers_before), "", ANSWER_TARGET
        ),
    ]


def _record(mount: StoreMount, source: Guest) -> None:
    """The first one is watched."""
    _restored(mount, source, "--prefetch", LOOKS_S[-1] + _SAVING_S)
    origin = (mount.path / f".{_SNAPSHOT}.snapshot").stat().st_ino
    if not working_set.load(mount.state, origin):
        raise BenchError("no working set was recorded")


def _restored(mount: StoreMount, source: Guest, option: str, runs_s: float = _FIRST_S) -> tuple[float, float]:
    """The blocks, and the seconds; it runs for `runs_s`."""
    command = [*_COMMAND, "restore", _SNAPSHOT, "--as", "warm", option, "--mount", str(mount.path), "--"]
    began = time.perf_counter()
    with Guest("warm", source.memory_bytes, mount.path / "warm", runner=command, free_page_reporting=True) as guest:
        while not guest.qmp("query-status")["running"]:
            if time.perf_counter() - began > _UP_S:
                raise BenchError("a restored guest does not run")
            time.sleep(0.002)
        up = time.perf_counter()
        guest.assume_ready()
        guest.command("echo here")
        answered_s = time.perf_counter() - began
        time.sleep(max(up + _FIRST_S - time.perf_counter(), 0))
        blocks = mount.status()["volumes"]["warm"]["refaults"]
        time.sleep(max(up + runs_s - time.perf_counter(), 0))
    deadline = time.monotonic() + _UP_S
    while (mount.path / "warm").exists():
        if time.monotonic() > deadline:
            raise BenchError("a restored guest does not end")
        time.sleep(0.05)
    return blocks, answered_s


def _run(mount: StoreMount, *arguments: str) -> None:
    processes.run([*_COMMAND, *arguments, "--mount", str(mount.path)], mount.abort, _UP_S)
