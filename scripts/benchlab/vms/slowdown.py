"""What a guest's work takes on the store, with `auto`, against the same work in a guest on plain memory (table 3).

Two Debian guests, alike but for their memory: one of `blockstore run`, one whose memory is a file on tmpfs. They work
by turns, one after the other and the order changed each time, so that what disturbs the machine disturbs both; while
one works the other is idle, and the controller takes away what that one does not use. Each workload is a fixed piece
of work, timed from outside.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final

from guestlab import debian
from guestlab.guest import Guest

from benchlab.bench import Bench
from benchlab.figures import Figure, from_repetitions, ratios
from benchlab.mounts import StoreMount
from benchlab.vms.resident import BOOT_S, GUEST_BYTES, controlled_guest, seconds_of

SLOWDOWN_TARGET: Final = 1.07

PAIRS: Final = 3
QUICK_PAIRS: Final = 2

_PREPARE_S: Final = 300.0

_SOURCE: Final = "/root/work.c"
_GENERATE: Final = (
    'awk \'BEGIN { print "#include <math.h>"; for (n = 0; n < 160; n++) { '
    'printf "double f%d(double *a, int n) {{ double s = %d; for (int i = 1; i < n; i++) '
    "s += sqrt(fabs(a[i] * a[i - 1] - %d)) / (i + s); return s; }}\\n\", n, n, n } }'"
)


@dataclass(frozen=True)
class Workload:
    """`prepare` is run once in each guest, `work` is what is timed; both are one line of shell."""

    name: str
    prepare: str
    work: str


WORKLOADS: Final = (
    Workload("compile", f"{_GENERATE} >{_SOURCE}", f"gcc -O2 -c -o /root/work.o {_SOURCE}"),
    Workload(
        "database",
        "systemctl start postgresql && runuser -u postgres -- createdb bench && "
        "runuser -u postgres -- $(ls /usr/lib/postgresql/*/bin/pgbench) -q -i -s 2 bench",
        "runuser -u postgres -- $(ls /usr/lib/postgresql/*/bin/pgbench) -n -c 2 -t 150 bench",
    ),
    Workload(
        "key-value store",
        "systemctl start redis-server && sleep 2 && redis-benchmark -q -r 50000 -n 50000 -d 512 set key:__rand_int__ v",
        "redis-benchmark -q -r 50000 -n 10000 get key:__rand_int__",
    ),
    Workload("archive", "true", "tar -cf - -C /usr/lib/python3.11 . 2>/dev/null | gzip -1 | sha256sum"),
    Workload(
        "interpreter", "true", "python3 -m compileall -q -f /usr/lib/python3.11/email /usr/lib/python3.11/asyncio"
    ),
)
"""What the paper ran was a kernel build, lmbench, an editor, a database benchmark and a web service."""

QUICK_WORKLOAD: Final = Workload("archive", "true", "tar -cf - /bin /proc/kallsyms 2>/dev/null | gzip -1 | sha256sum")
"""In a busybox guest."""


def measure(bench: Bench) -> list[Figure]:
    """The sum of all, and each; `bench.kept["slowdown"]` has, by workload, the seconds of both in order."""
    pairs = QUICK_PAIRS if bench.quick else PAIRS
    workloads = (QUICK_WORKLOAD,) if bench.quick else WORKLOADS
    bench.say(f"slowdown: {pairs} pairs of {', '.join(workload.name for workload in workloads)}")
    disk = None if bench.quick else debian.debian_image()
    plain_file = bench.workspace.states / "plain"
    with StoreMount(bench.workspace, "slowdown") as mount, ExitStack() as stack:
        store = stack.enter_context(controlled_guest(mount, "store", "auto", disk=disk))
        plain = stack.enter_context(
            Guest("plain", GUEST_BYTES, plain_file, disk=disk, balloon=True, free_page_reporting=True)
        )
        guests = (store, plain)
        for guest in guests:
            guest.wait_ready(BOOT_S)
        times = {workload: _pairs(guests, workload, pairs) for workload in workloads}
        left = mount.status()["volumes"]["store"]
    plain_file.unlink()
    bench.kept["slowdown"] = {
        workload.name: {"store_s": on_store, "plain_s": on_plain} for workload, (on_store, on_plain) in times.items()
    }
    note = f"{left['resident'] / 2**20:.0f} MiB of {left['touched'] / 2**20:.0f} touched were resident at the end"
    return _figures(times, note)


def _pairs(guests: tuple[Guest, Guest], workload: Workload, pairs: int) -> tuple[list[float], list[float]]:
    """Seconds of the guest on the store, and of the other."""
    for guest in guests:
        guest.command(workload.prepare, _PREPARE_S)
        guest.command(workload.work, _PREPARE_S)  # once unseen: the first run reads from the disk
    times: dict[Guest, list[float]] = {guest: [] for guest in guests}
    for number in range(pairs):
        for guest in guests if number % 2 else reversed(guests):
            times[guest].append(seconds_of(guest, workload.work))
    return times[guests[0]], times[guests[1]]


def _figures(times: dict[Workload, tuple[list[float], list[float]]], note: str) -> list[Figure]:
    totals = [
        sum(column) for column in zip(*[(sum(store), sum(plain)) for store, plain in times.values()], strict=True)
    ]
    result = [Figure("slowdown", "all work, store / plain", totals[0] / totals[1], target=SLOWDOWN_TARGET, note=note)]
    for workload, (store, plain) in times.items():
        result.append(
            from_repetitions(
                "slowdown",
                f"{workload.name}, store / plain",
                ratios(store, plain),
                note=f"{sum(plain) / len(plain):.1f} s on plain memory",
            )
        )
    return result
