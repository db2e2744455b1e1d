"""The machine under the bench: which cores, how noisy, and how to have memory that is cheap to take."""

from __future__ import annotations

import mmap
import os
import platform
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

MADV_POPULATE_WRITE: Final = 23
"""mman.h; madvise(2), Linux 5.14."""

REAL_TIME_PRIORITY: Final = 1

_SPIN_STEPS: Final = 20_000
"""About half a millisecond of plain Python."""

_SPINS: Final = 400


def cores() -> tuple[int, int]:
    """(the core that is measured on, the core for what may not disturb); the same where there is only one."""
    available = sorted(os.sched_getaffinity(0))
    return available[-1], available[0]


@contextmanager
def pinned(core: int) -> Iterator[None]:
    """This thread, and what it starts meanwhile, on one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


@contextmanager
def before_all() -> Iterator[None]:
    """This thread, and threads that it starts meanwhile, before everybody with ordinary priority: with neighbours two
    threads get no more of two cores than one."""
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(REAL_TIME_PRIORITY))
    try:
        yield
    finally:
        os.sched_setscheduler(0, *before)


def real_time(pid: int) -> None:
    """Let all threads of this process go before everybody with ordinary priority."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setscheduler(int(task.name), os.SCHED_RR, os.sched_param(REAL_TIME_PRIORITY))


def warm_memory(size_bytes: int) -> None:
    """Take memory and free it at once, so that the guest kernel has so many pages at hand.

    On a VM with free page reporting the hypervisor takes free pages back after about two seconds, and the next who
    touches them waits for a fault *in the hypervisor*. What the store takes is fresh memory, what it is compared
    with takes none: without this the ratio would measure the hypervisor.
    """
    memory = mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    try:
        memory.madvise(MADV_POPULATE_WRITE)
    finally:
        memory.close()


def available_bytes() -> int:
    """What the kernel could give to new processes: page cache counts, as it would go."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) << 10


class Noise:
    """What the machine did besides us, from its construction to `report`."""

    def __init__(self) -> None:
        self._before = _cpu_ticks()
        self._load = os.getloadavg()[0]
        self._spins: list[float] = []

    def sample(self) -> None:
        """Time a fixed piece of work many times; on a quiet core all take the same."""
        with pinned(cores()[0]):
            for _ in range(_SPINS // 8):
                start = time.perf_counter_ns()
                for _ in range(_SPIN_STEPS):
                    pass
                self._spins.append(time.perf_counter_ns() - start)

    def report(self) -> dict[str, float]:
        """Shares of one; `spin_p50` and `spin_p95` are over the fastest."""
        ticks = [after - before for before, after in zip(self._before, _cpu_ticks(), strict=True)]
        result = {"load_before": self._load, "steal_share": ticks[7] / max(sum(ticks[:8]), 1)}
        if len(self._spins) > 1:
            fastest = min(self._spins)
            result["spin_p50"] = statistics.median(self._spins) / fastest
            result["spin_p95"] = statistics.quantiles(self._spins, n=20)[-1] / fastest
        return result


def describe() -> dict[str, Any]:
    """What somebody else needs to know to compare."""
    model = next(
        (line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").open() if line.startswith("model name")), "?"
    )
    return {
        "cpu": model,
        "cores": len(os.sched_getaffinity(0)),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "date": time.strftime("%Y-%m-%d"),
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def _cpu_ticks() -> list[int]:
    """user nice system idle iowait irq softirq steal guest guest_nice, of all cores (proc_stat(5))."""
    return [int(part) for part in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
