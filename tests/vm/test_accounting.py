"""The footprint is what the host pays: compared with what the kernel says of the whole machine and of a VM's cgroup."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path

import pytest

from blockstore.daemon.bill import PARTS
from blockstore.vm import cgroups
from tests.daemon.lab import Lab, ask, end, said, spawn

pytestmark = pytest.mark.mount

MIB = 1 << 20
FILE_BYTES = 384 * MIB

WRITER = """
import mmap, os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
os.ftruncate(descriptor, int(sys.argv[2]))
mapping = mmap.mmap(descriptor, 0)
print("ready", flush=True)
for line in sys.stdin:
    for start in range(0, len(mapping), 1 << 20):
        mapping[start : start + (1 << 20)] = os.urandom(1 << 19) + bytes(range(256)) * 2048
    mapping.flush()
    print("done", flush=True)
"""


def available_bytes() -> int:
    """Median of some moments: other processes come and go."""
    found = []
    for _ in range(9):
        lines = Path("/proc/meminfo").read_text().splitlines()
        found.append(int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) << 10)
        time.sleep(0.2)
    return int(statistics.median(found))


def test_the_footprint_is_what_the_kernel_says(lab: Lab) -> None:
    try:
        cgroup = cgroups.create("accounting", cgroups.of_process("self"))
    except LookupError as error:
        pytest.skip(f"no memory cgroup can be made here: {error}")
    before = available_bytes()
    mounted = lab.mount(pool_limit="1G")
    process = spawn(WRITER, str(mounted.path / "vm"), str(FILE_BYTES))
    try:
        cgroup.enter(process.pid)
        assert said(process) == "ready"
        ask(process, "write")
        cgroup.reclaim(FILE_BYTES // 2)
        time.sleep(6)  # the daemon gives back what its start took
        total = mounted.total()
        # What is resident is page cache, which the kernel calls available; all else of the footprint is not.
        paid = before - available_bytes() + cgroup.cached_bytes()
    finally:
        end(process.pid)
        cgroup.kill()
        cgroup.remove()
    assert total["footprint"] == sum(total[key] for key in ("pool", "tables", "daemon_memory", "resident"))
    assert total["daemon_memory"] == sum(total["daemon_memory_parts"][part] for part in PARTS)
    assert all(total["daemon_memory_parts"][part] > 0 for part in PARTS)
    assert total["saved"] == pytest.approx(1 - total["footprint"] / total["touched"])
    assert total["resident"] == pytest.approx(FILE_BYTES // 2, rel=0.25), "half of it was taken back"
    assert total["footprint"] == pytest.approx(paid, rel=0.1)


def test_parts_add_up_over_volumes(lab: Lab) -> None:
    mounted = lab.mount()
    for number in range(3):
        (mounted.path / f"vm{number}").write_bytes(os.urandom(MIB) * (number + 1))
    report = mounted.status()
    for key in ("pool", "tables", "daemon_memory", "resident", "footprint", "touched"):
        assert report["total"][key] == sum(volume[key] for volume in report["volumes"].values()), key
