"""What the store itself costs: the processes of a mount without VMs and with three, tables and heap after 1 GiB of
guest memory went through a mount, and the worst case.

The memory is that of the guests, then of the same guests with 64 bytes of each block changed, until 1 GiB is not
zero. The worst case for tables is a store in memory of blocks that are all unique, where no row serves two.
"""

from __future__ import annotations

import compileall
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import blockstore
from benchlab import images
from benchlab.bench import Bench
from benchlab.cost.engine import WRITE_BYTES
from benchlab.figures import Figure
from benchlab.latency import faults
from benchlab.mounts import StoreMount
from benchlab.vms.resident import BOOT_S, controlled_guest
from blockstore.daemon.control.bill import PROCESSES
from blockstore.daemon.supervise.pressure import TRIM_S
from blockstore.store.state.home import MemoryHome
from blockstore.store.state.pool_limit import MINIMUM_LIMIT_BYTES
from blockstore.store.steps import run
from blockstore.store.store import Store

TABLES_TARGET_PERCENT: Final = 1.5
HEAP_TARGET_MIB: Final = 96.0
PROCESSES_TARGET_MB: Final = 30.0
_MOUNT_BYTES: Final = 1 << 30
_UNIQUE_BYTES: Final = 256 << 20
_SETTLED_S: Final = 10.0
"""After the first five seconds the daemon gives back what its start took."""

_GUESTS: Final = 3

_WORST_FROM_BYTES: Final = 32 << 20
"""Below this the tables' first sizes, which are fixed, weigh more than the blocks."""


def measure(bench: Bench) -> list[Figure]:
    """A mount without VMs, one with 1 GiB, then the worst case."""
    scale = 3 if bench.quick else 0
    return [
        processes_of_a_mount(bench),
        *([] if bench.quick else [_processes_with_guests(bench)]),
        *_through_a_mount(bench, _MOUNT_BYTES >> scale),
        *_worst_case(bench, _UNIQUE_BYTES >> scale),
    ]


def processes_of_a_mount(bench: Bench) -> Figure:
    """The memory of the processes of a mount that serves no file, each with its part of what several share (PSS)."""
    bench.say("memory: the processes of a mount without VMs")
    _compile()
    with StoreMount(bench.workspace, "idle") as mount:
        time.sleep(_SETTLED_S)
        return _processes("without VMs", mount.status()["total"])


def _processes_with_guests(bench: Bench) -> Figure:
    """The same with guests that have booted, once what their start has used is given back."""
    bench.say(f"memory: the processes of a mount with {_GUESTS} guests on auto")
    _compile()
    with StoreMount(bench.workspace, "attached") as mount, ExitStack() as stack:
        guests = [stack.enter_context(controlled_guest(mount, f"vm{number}", "auto")) for number in range(_GUESTS)]
        for guest in guests:
            guest.wait_ready(BOOT_S)
        time.sleep(TRIM_S + _SETTLED_S)
        return _processes("with three VMs attached", mount.status()["total"])


def _compile() -> None:
    """An installed package is compiled. A clone may not be, and then each process does it, for 3 MB."""
    compileall.compile_dir(Path(blockstore.__file__).parent, quiet=1)


def _processes(which: str, total: dict[str, Any]) -> Figure:
    parts_mb = {name: total["daemon_memory_parts"][name] / 1e6 for name in PROCESSES}
    return Figure(
        "memory",
        f"processes of a mount {which}, PSS",
        sum(parts_mb.values()),
        "MB",
        PROCESSES_TARGET_MB,
        note=", ".join(f"{name} {size_mb:.1f}" for name, size_mb in parts_mb.items()),
    )


def _through_a_mount(bench: Bench, size_bytes: int) -> list[Figure]:
    bench.say(f"memory: {size_bytes >> 20} MiB through a mount")
    written = seconds = 0.0
    with StoreMount(bench.workspace, "memory") as mount:
        for name, blocks in images.fill_up(bench.images, size_bytes):
            source = bench.workspace.states / "source"
            blocks.tofile(source)
            done = faults.fill(faults.Server(mount, mount.path / name), source)
            written, seconds = written + done["bytes"], seconds + done["seconds"]
            source.unlink()
        total = mount.status()["total"]
    data_bytes = total["touched"] - total["zero"]
    data_mib, stored_mib = data_bytes / 2**20, total["stored"] / 2**20
    return [
        Figure(
            "memory",
            "tables / memory that holds data",
            100 * total["tables"] / data_bytes,
            "%",
            TABLES_TARGET_PERCENT,
            note=f"{data_mib:.0f} MiB of data, {stored_mib:.0f} MiB stored, {total['tables'] / 2**20:.1f} MiB tables",
        ),
        Figure("memory", "daemon's heap", total["daemon_memory"] / 2**20, "MiB", HEAP_TARGET_MIB),
        Figure(
            "memory",
            "write by mmap and fdatasync",
            written / seconds / 1e6,
            "MB/s",
            note="client and daemon on two cores; with patching",
        ),
    ]


def _worst_case(bench: Bench, size_bytes: int) -> list[Figure]:
    bench.say(f"memory: {size_bytes >> 20} MiB of unique blocks in a store in memory")
    at_end = worst = 0.0
    worst_at = 0
    store = Store(MemoryHome(), size_bytes + size_bytes // 8 + MINIMUM_LIMIT_BYTES)
    volume = store.create_volume(1, domain_key=1)
    for _, blocks in images.fill_up(bench.images, 2 * size_bytes):
        unique = b"".join(images.unique_compressible(images.variation(blocks, 99)))
        for start in range(0, min(len(unique), size_bytes - volume.size_bytes), WRITE_BYTES):
            part = unique[start : start + min(WRITE_BYTES, size_bytes - volume.size_bytes)]
            run(store.write_steps(volume, volume.size_bytes, part))
            at_end = 100 * store.table_bytes / volume.size_bytes
            if volume.size_bytes >= min(_WORST_FROM_BYTES, size_bytes) and at_end > worst:
                worst, worst_at = at_end, volume.size_bytes
        if volume.size_bytes >= size_bytes:
            break
    figures = [
        Figure(
            "memory",
            "tables, all blocks unique",
            at_end,
            "%",
            TABLES_TARGET_PERCENT,
            note=f"{volume.size_bytes >> 20} MiB, {store.rows.live:,} rows",
        ),
        Figure(
            "memory",
            "tables, all blocks unique, at the worst moment",
            worst,
            "%",
            note=f"at {worst_at >> 20} MiB, of all from {_WORST_FROM_BYTES >> 20} MiB on",
        ),
    ]
    store.close()
    return figures
