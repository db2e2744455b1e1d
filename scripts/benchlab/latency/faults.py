"""Faults: a 4 KiB page of compressed guest data that left the page cache is touched through a mapping.

Three servers of the same file at once: the store without patches, the store, and the floor, a C server that answers
from a constant.
In turns, many rounds, a client evicts the file and touches pages at random. Client and servers share one core, where
a wake-up costs least (docs/decisions.md), and run with real-time priority, so that whoever else uses the machine takes
no time from them; the same for all three.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

import numpy as np
import numpy.typing as npt

from benchlab import images, machine, processes, programs
from benchlab.bench import Bench
from benchlab.figures import Figure, from_repetitions, ratios
from benchlab.mounts import FloorMount, Mount, StoreMount

FLOOR_TARGET: Final = 1.4
"""Without patches; p50."""

PATCHING_TARGET: Final = 1.5
"""To the floor as well: the store as it is mounted without options."""

_DATA_BYTES: Final = 64 << 20
_FAULTS: Final = 3000
_ROUNDS: Final = 15
_CLIENT_S: Final = 60.0
_FILL_S: Final = 120.0

Nanoseconds = npt.NDArray[np.uint32]


class Touched(Protocol):
    """What a client may touch: a file, and a way to free who waits for its server."""

    @property
    def path(self) -> Path: ...

    @property
    def abort(self) -> processes.Abort: ...


@dataclass
class Server:
    """A mount with the file that is faulted, and the percentiles of each round in us."""

    mount: Mount
    path: Path
    p50: list[float] = field(default_factory=list)
    p99: list[float] = field(default_factory=list)

    @property
    def abort(self) -> processes.Abort:
        return self.mount.abort


def measure(bench: Bench) -> list[Figure]:
    """p50 and p99 of all three, and the two ratios to the floor."""
    core = machine.cores()[0]
    data_bytes = _DATA_BYTES >> 2 if bench.quick else _DATA_BYTES
    rounds = 3 if bench.quick else _ROUNDS
    bench.say(f"fault: {rounds} rounds over {data_bytes >> 20} MiB on core {core}")
    bench.noise.sample()
    source = write_source(bench, data_bytes)
    with ExitStack() as stack:
        servers: dict[str, Server] = {}
        for name, options in (("lane", ["--no-patch"]), ("patching", [])):
            mount = stack.enter_context(StoreMount(bench.workspace, name, *options, core=core))
            servers[name] = Server(mount, mount.path / "vm")
            fill(servers[name], source)
        floor = stack.enter_context(FloorMount(bench.workspace, source.stat().st_size, core))
        servers["floor"] = Server(floor, floor.path / "file")
        for server in servers.values():
            machine.real_time(server.mount.pid)
        random = np.random.default_rng(1)
        for number in range(rounds):
            pages = some_pages(random, source, _FAULTS)
            names = list(servers)
            for name in names[number % len(names) :] + names[: number % len(names)]:
                _round(bench, servers[name], pages, core)
        bench.noise.sample()
    source.unlink()
    return _figures(servers)


def _figures(servers: dict[str, Server]) -> list[Figure]:
    floor = servers["floor"].p50
    result = [
        from_repetitions("fault", f"{name} / floor, p50", ratios(servers[name].p50, floor), target=target)
        for name, target in (("lane", FLOOR_TARGET), ("patching", PATCHING_TARGET))
    ]
    notes = {"patching": "the same data stored with patches"}
    for name, server in servers.items():
        result.append(from_repetitions("fault", f"{name}, p50", server.p50, "us", note=notes.get(name, "")))
        result.append(from_repetitions("fault", f"{name}, p99", server.p99, "us"))
    return result


def _round(bench: Bench, server: Server, pages: npt.NDArray[np.uint32], core: int) -> None:
    times = fault(bench, server, pages, core, "chrt", "--rr", str(machine.REAL_TIME_PRIORITY))
    server.p50.append(float(np.percentile(times, 50)) / 1e3)
    server.p99.append(float(np.percentile(times, 99)) / 1e3)


def some_pages(random: np.random.Generator, source: Path, count: int) -> npt.NDArray[np.uint32]:
    """Numbers of pages of a file like `source`, none twice: a page is faulted once."""
    return random.permutation(source.stat().st_size // images.BLOCK_BYTES)[:count].astype(np.uint32)


def write_source(bench: Bench, size_bytes: int) -> Path:
    """A file, on tmpfs, of unique blocks of guest memory that compress."""
    blocks: list[bytes] = []
    for image in bench.images.values():
        blocks += images.unique_compressible(images.data_blocks(image), size_bytes // images.BLOCK_BYTES - len(blocks))
        if len(blocks) * images.BLOCK_BYTES >= size_bytes:
            break
    path = bench.workspace.states / f"source-{len(list(bench.workspace.states.iterdir()))}"
    path.write_bytes(b"".join(blocks))
    return path


def fill(file: Touched, source: Path, core: int | None = None, *prefix: str) -> dict[str, float]:
    """Write the file through a mapping, and write it back; bytes and seconds."""
    command: list[str | Path] = [*prefix, programs.client(), "fill", file.path, source]
    result: dict[str, float] = processes.run_json(command, file.abort, _FILL_S, core)
    return result


def fault(
    bench: Bench, file: Touched, pages: npt.NDArray[np.uint32], core: int | None, *prefix: str, pace_us: int = 0
) -> Nanoseconds:
    """The time of each fault on these pages, after eviction; one every `pace_us`, or one after the other."""
    listed = bench.workspace.states / "pages"
    listed.write_bytes(pages.tobytes())
    command: list[str | Path] = [*prefix, programs.client(), "fault", file.path, listed, str(pace_us)]
    return np.frombuffer(processes.run(command, file.abort, _CLIENT_S, core), dtype=np.uint32)
