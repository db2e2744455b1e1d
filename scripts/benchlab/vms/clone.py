"""A clone: `cp` of a memory file inside one domain moves block ids, no data."""

from __future__ import annotations

import time
from typing import Final

from benchlab import images, processes
from benchlab.bench import Bench
from benchlab.figures import Figure
from benchlab.latency import faults
from benchlab.mounts import StoreMount

COPY_TARGET_S: Final = 0.5
"""The issue says: well under a second."""

_FILE_BYTES: Final = 1 << 30
_COPY_S: Final = 120.0


def measure(bench: Bench) -> list[Figure]:
    """Seconds, and what it added to the store."""
    size_bytes = _FILE_BYTES >> (3 if bench.quick else 0)
    bench.say(f"clone: of {size_bytes >> 20} MiB")
    source = bench.workspace.states / "source"
    with source.open("wb") as out:
        for _, blocks in images.fill_up(bench.images, size_bytes):
            blocks.tofile(out)
    with StoreMount(bench.workspace, "clone") as mount:
        faults.fill(faults.Server(mount, mount.path / "vm"), source)
        source.unlink()
        before = mount.status()["total"]
        start = time.perf_counter()
        processes.run(["cp", mount.path / "vm", mount.path / "copy"], mount.abort, _COPY_S)
        seconds = time.perf_counter() - start
        after = mount.status()["total"]
    return [
        Figure("clone", f"cp of {size_bytes >> 20} MiB", seconds, "s", COPY_TARGET_S),
        Figure(
            "clone",
            "bytes stored more after it",
            after["stored"] - before["stored"],
            target=0.0,
            note=f"{(after['touched'] - before['touched']) / 2**20:.0f} MiB more touched",
        ),
    ]
