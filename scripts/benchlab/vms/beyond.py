"""Beyond the pool: guests that use many times what the pool holds, and look at all of it again, byte by byte.

Two guests fill their memory with files, half of them random, and note their sums; then everything that the kernel keeps
of them is evicted, and each checks its sums, twice. Counts, not times: what is promised is that nothing is lost.
"""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from typing import Final

from guestlab import work
from guestlab.guest import Guest

from benchlab.bench import Bench
from benchlab.errors import BenchError
from benchlab.figures import AT_LEAST, Figure
from benchlab.mounts import StoreMount

GROUP: Final = "beyond"

_GUESTS: Final = 2
_FILLED_MIB: Final = 2048
"""In each guest; 4 GiB together."""

_POOL_MIB: Final = 512
_QUICK_FILLED_MIB: Final = 32
_QUICK_POOL_MIB: Final = 16
_KINDS: Final[tuple[work.Kind, ...]] = ("random", "text", "random", "copies")
_ROUNDS: Final = 2
_COMMAND_S: Final = 300.0


def measure(bench: Bench) -> list[Figure]:
    """What was in the tier at most, and how many files were whole."""
    filled_mib, pool_mib = (_QUICK_FILLED_MIB, _QUICK_POOL_MIB) if bench.quick else (_FILLED_MIB, _POOL_MIB)
    memory_bytes = (filled_mib + filled_mib // 8 + 96) << 20
    options = ("--spill", f"file:{bench.workspace.mounts / 'beyond-tier'}", "--pool-limit", f"{pool_mib}M")
    with StoreMount(bench.workspace, GROUP, *options) as mount, ExitStack() as stack:
        guests = [
            stack.enter_context(Guest(f"vm{number}", memory_bytes, mount.path / f"vm{number}"))
            for number in range(_GUESTS)
        ]
        for guest in guests:
            guest.wait_ready(120)
            for kind in _KINDS:
                work.fill(guest, filled_mib // len(_KINDS), kind)
                bench.say(f"beyond: {filled_mib // len(_KINDS)} MiB of {kind} in {guest.name}")
        looked_at, damaged, paged_bytes, pool_bytes = 0, 0, 0, 0
        for _ in range(_ROUNDS):
            _evict(mount)
            for guest in guests:
                damaged += len(work.verify(guest))
                looked_at += work.verified_files(guest)
            total = mount.status()["total"]
            paged_bytes, pool_bytes = max(paged_bytes, total["paged"]), max(pool_bytes, total["pool"])
            bench.say(f"beyond: {looked_at} looks at files, {damaged} damaged")
        total = mount.status()["total"]
        reads, fetched_us = sum(total["tier_latency"]["counts"]), total["tier_latency"]["sum_us"]
    if not looked_at:
        raise BenchError("no file was looked at")
    touched = f"touched {total['touched'] >> 20} MiB, stored {(total['stored'] + total['stored_paged']) >> 20} MiB"
    return [
        Figure(GROUP, "memory that the VMs use / pool", total["touched"] / (pool_mib << 20), "", note=touched),
        Figure(GROUP, "pool / its limit, at most", pool_bytes / (pool_mib << 20), "", 1.0),
        Figure(GROUP, "memory in the tier, at most", paged_bytes / (1 << 20), "MiB"),
        Figure(
            GROUP, "files that are whole", 1 - damaged / looked_at, "", 1.0, AT_LEAST, note=f"{looked_at} looks at one"
        ),
        Figure(GROUP, "read from the tier, mean", fetched_us / max(reads, 1), "us", note=f"{reads} reads"),
    ]


def _evict(mount: StoreMount) -> None:
    command = [sys.executable, "-m", "blockstore", "evict", str(mount.path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_S, check=False)
    if done.returncode:
        raise BenchError(f"evict ended with {done.returncode}: {done.stderr.strip()}")
