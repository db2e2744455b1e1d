"""The footprint is what the host pays: compared with what the kernel says of the whole machine and of a VM's cgroup."""

from __future__ import annotations

import mmap
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from blockstore.daemon.bill import PARTS
from blockstore.vm import cgroups
from blockstore.vm.cgroups import Cgroup
from tests.daemon.lab import Lab, Mounted, ask, end, run, said, spawn

pytestmark = [pytest.mark.mount, pytest.mark.alone]

MIB = 1 << 20
FILE_BYTES = 384 * MIB
ATTEMPTS = 3
"""The machine has other processes, whose memory comes and goes."""

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
    """Of the machine, by the kernel's estimate, and with what lies in each processor's list of free pages: the kernel
    empties those little by little, and does not count them as free before."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    estimate = int(next(line for line in lines if line.startswith("MemAvailable")).split()[1]) << 10
    listed = re.findall(r"^ +count: +(\d+)$", Path("/proc/zoneinfo").read_text(), re.MULTILINE)
    return estimate + sum(map(int, listed)) * mmap.PAGESIZE


@pytest.fixture
def cgroup_pair() -> Iterator[tuple[Cgroup, Cgroup]]:
    """For the mount's processes, and for a VM."""
    made: list[Cgroup] = []
    try:
        for name in ("mount", "vm"):
            made.append(cgroups.create(f"accounting-{name}", cgroups.of_process("self")))
        yield made[0], made[1]
    except LookupError as error:
        pytest.skip(f"no memory cgroup can be made here: {error}")
    finally:
        for cgroup in made:
            cgroup.kill()
            cgroup.remove()


def test_the_footprint_is_what_the_kernel_says(lab: Lab, cgroup_pair: tuple[Cgroup, Cgroup]) -> None:
    for number in range(ATTEMPTS):
        total, resident, charged, freed = look(lab, f"mnt{number}", *cgroup_pair)
        assert total["footprint"] == sum(total[key] for key in ("pool", "tables", "daemon_memory", "resident"))
        assert total["daemon_memory"] == sum(total["daemon_memory_parts"][part] for part in PARTS)
        assert all(total["daemon_memory_parts"][part] > 0 for part in PARTS)
        assert total["saved"] == pytest.approx(1 - total["footprint"] / total["touched"])
        assert total["resident"] == pytest.approx(FILE_BYTES // 2, rel=0.25), "half of it was taken back"
        assert total["resident"] == pytest.approx(resident, rel=0.05)
        assert total["footprint"] == pytest.approx(charged + resident, rel=0.1)
        # What is resident is page cache, which the kernel calls available; all else of the footprint is not.
        if total["footprint"] == pytest.approx(freed + resident, rel=0.1):
            return
    assert total["footprint"] == pytest.approx(freed + resident, rel=0.1)


def look(lab: Lab, name: str, for_mount: Cgroup, for_vm: Cgroup) -> tuple[dict[str, Any], int, int, int]:
    """A mount and a VM that comes and goes: the total, and in bytes what is resident, what was charged to the mount's
    cgroup, and what became available when the mount had gone. What others take or give back in that moment is in the
    last one too."""
    mountpoint, state = lab.mountpoint(name), lab.path / f"{name}.state"
    enter = f'echo $$ >{for_mount.path}/cgroup.procs; exec "$@"'
    command = [
        sys.executable,
        "-m",
        "blockstore",
        "mount",
        str(mountpoint),
        "--state",
        str(state),
        "--pool-limit",
        "1G",
    ]
    assert run(["sh", "-c", enter, "sh", *command]).returncode == 0
    mounted = Mounted(mountpoint, state, lane=True)
    process = spawn(WRITER, str(mounted.path / "vm"), str(FILE_BYTES))
    try:
        for_vm.enter(process.pid)
        assert said(process) == "ready"
        ask(process, "write")
        for_vm.reclaim(FILE_BYTES // 2)
        time.sleep(6)  # the daemon gives back what its start took
        total = mounted.total()
        resident, charged = for_vm.cached_bytes(), for_mount.charged_bytes()
    finally:
        end(process.pid)
    before = available_bytes()
    assert mounted.umount("--discard").returncode == 0
    return total, resident, charged, available_bytes() - before


def test_parts_add_up_over_volumes(lab: Lab) -> None:
    mounted = lab.mount()
    for number in range(3):
        (mounted.path / f"vm{number}").write_bytes(os.urandom(MIB) * (number + 1))
    report = mounted.status()
    for key in ("pool", "tables", "daemon_memory", "resident", "footprint", "touched"):
        assert report["total"][key] == sum(volume[key] for volume in report["volumes"].values()), key
