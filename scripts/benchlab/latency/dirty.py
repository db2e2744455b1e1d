"""Dirtying: a process stores into random pages of a mapped 256 MiB file for ten seconds, as a busy vCPU does.

Once as blockstore mounts, once with the kernel's own throttle on the same mount (docs/decisions.md). In ten seconds the
kernel need not write anything back; so for information twice more with write-back beside it: of everything at once,
over and over, which is the worst that the kernel's flusher may do, and each second 4 MiB at a time, as `blockstore
evict` does it. A hold-up is counted without the time in which the process was ready to run and others had the core:
that is the machine, and in the note. At last, what it costs to write back pages that are dirty here and there, beside
all in a row.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from benchlab import machine, processes, programs
from benchlab.bench import Bench
from benchlab.figures import AT_LEAST, Figure
from benchlab.latency import faults
from benchlab.mounts import Mount, StoreMount

HOLD_UP_TARGET_MS: Final = 50.0
RATE_TARGET: Final = 10.0

_FILE_BYTES: Final = 256 << 20
_SECONDS: Final = 10.0
_SPARE_S: Final = 120.0
_SCATTER_STEP: Final = 3
_SCATTER_ROUNDS: Final = 4
_THROTTLE: Final = {"max_ratio": "1", "strict_limit": "1"}
"""As FUSE mounts start."""


def measure(bench: Bench) -> list[Figure]:
    """The longest hold-up and the rate."""
    seconds = 3.0 if bench.quick else _SECONDS
    source = faults.write_source(bench, _FILE_BYTES >> (2 if bench.quick else 0))
    with StoreMount(bench.workspace, "dirty") as mount:
        server = faults.Server(mount, mount.path / "vm")
        faults.fill(server, source)
        bench.noise.sample()
        bench.say(f"dirty: four times {seconds:.0f} s, one of them throttled by the kernel")
        free = _dirty(server, seconds)
        with _throttled(mount):
            slow = _dirty(server, seconds)
        flushed = _dirty(server, seconds, beside="flush")
        synced = _dirty(server, seconds, beside="sync")
        scattered, in_a_row = (_written_back_us(server, step) for step in (_SCATTER_STEP, 1))
    source.unlink()
    return [
        Figure("dirty", "longest hold-up", _held_ms(free), "ms", HOLD_UP_TARGET_MS, note=_rate_text(free)),
        Figure(
            "dirty",
            "rate / rate under the kernel's throttle",
            _rate(free) / _rate(slow),
            target=RATE_TARGET,
            direction=AT_LEAST,
            note=f"throttled: {_rate_text(slow)}, held up {_held_ms(slow):.0f} ms",
        ),
        Figure("dirty", "longest hold-up, all written back", _held_ms(flushed), "ms", note=_rate_text(flushed)),
        Figure("dirty", "longest hold-up, evicted in pieces", _held_ms(synced), "ms", note=_rate_text(synced)),
        Figure(
            "dirty",
            f"write-back of every {_SCATTER_STEP}rd page / of all, by the page",
            scattered / in_a_row,
            note=f"{scattered:.0f} and {in_a_row:.0f} us",
        ),
    ]


def _dirty(server: faults.Server, seconds: float, *, beside: str = "") -> dict[str, Any]:
    writer_core, other_core = machine.cores()
    abort = server.mount.abort
    client = programs.client()
    with ExitStack() as stack:
        if beside:
            command: list[str | Path] = [client, beside, server.path, str(seconds)]
            stack.enter_context(processes.Process(command, abort, other_core))
        result: dict[str, Any] = processes.run_json(
            [client, "dirty", server.path, str(seconds), "1"], abort, seconds + _SPARE_S, writer_core
        )
    return result


def _written_back_us(server: faults.Server, step: int) -> float:
    """Of each page, when every `step`-th is dirty."""
    command: list[str | Path] = [programs.client(), "scatter", server.path, str(step), str(_SCATTER_ROUNDS)]
    result = processes.run_json(command, server.mount.abort, _SPARE_S)
    return 1e6 * float(result["seconds"]) / float(result["pages"])


@contextmanager
def _throttled(mount: Mount) -> Iterator[None]:
    """The kernel's default limits of dirty pages on this mount."""
    folder = Path("/sys/class/bdi") / mount.device
    before = {name: (folder / name).read_text() for name in _THROTTLE}
    try:
        for name, value in _THROTTLE.items():
            (folder / name).write_text(value)
        yield
    finally:
        for name, value in before.items():
            (folder / name).write_text(value)


def _held_ms(result: dict[str, Any]) -> float:
    return float(result["held_ns"]) / 1e6


def _rate(result: dict[str, Any]) -> float:
    return float(result["stores"]) / float(result["seconds"])


def _rate_text(result: dict[str, Any]) -> str:
    with_wait_ms = result["longest_ns"] / 1e6
    return f"{_rate(result) / 1e3:,.0f} thousand stores a second; with waiting for a core {with_wait_ms:.0f} ms"
