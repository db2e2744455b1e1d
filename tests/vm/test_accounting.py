"""The footprint is what the host pays: compared with what the kernel says of cgroups."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator

import pytest

from blockstore.daemon.control.bill import PARTS
from blockstore.vm.memory import cgroups
from blockstore.vm.memory.cgroups import Cgroup
from tests.daemon.lab import Lab, Mounted, ask, end, run, said, spawn, until

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


@pytest.fixture
def cgroup_pair() -> Iterator[tuple[Cgroup, Cgroup]]:
    """For the mount's processes, and for a VM."""
    made: list[Cgroup] = []
    try:
        for name in ("mount", "vm"):
            made.append(cgroups.create(f"accounting-{name}", cgroups.home()))
        yield made[0], made[1]
    except LookupError as error:
        pytest.skip(f"no memory cgroup can be made here: {error}")
    finally:
        for cgroup in made:
            cgroup.kill()
            cgroup.remove()


def test_the_footprint_is_what_the_kernel_says(lab: Lab, cgroup_pair: tuple[Cgroup, Cgroup]) -> None:
    """The kernel's figures of the cgroups, to which nobody else has anything charged."""
    for_mount, for_vm = cgroup_pair
    with half_resident(lab, for_mount, for_vm) as mounted:

        def agree() -> bool:
            total = mounted.total()
            assert total["footprint"] == sum(total[key] for key in ("pool", "tables", "daemon_memory", "resident"))
            assert total["daemon_memory"] == sum(total["daemon_memory_parts"][part] for part in PARTS)
            assert all(total["daemon_memory_parts"][part] > 0 for part in PARTS)
            assert total["saved"] == pytest.approx(1 - total["footprint"] / total["touched"])
            assert total["resident"] == pytest.approx(FILE_BYTES // 2, rel=0.25), "half of it was taken back"
            resident, charged = for_vm.cached_bytes(), for_mount.charged_bytes()
            assert total["resident"] == pytest.approx(resident, rel=0.05)
            return bool(total["footprint"] == pytest.approx(charged + resident, rel=0.1))

        until(agree, "the daemon has given back what its start took")
    assert mounted.umount("--discard").returncode == 0


@contextlib.contextmanager
def half_resident(lab: Lab, for_mount: Cgroup, for_vm: Cgroup) -> Iterator[Mounted]:
    """A mount, and a VM whose memory the kernel has taken back by half; it ends, and the mount stays."""
    mountpoint, state = lab.mountpoint(), lab.path / "mnt.state"
    enter = f'echo $$ >{for_mount.path}/cgroup.procs; exec "$@"'
    command = [sys.executable, "-m", "blockstore", "mount", str(mountpoint), "--state", str(state)]
    assert run(["sh", "-c", enter, "sh", *command, "--pool-limit", "1G"]).returncode == 0
    process = spawn(WRITER, str(mountpoint / "vm"), str(FILE_BYTES))
    try:
        for_vm.enter(process.pid)
        assert said(process) == "ready"
        ask(process, "write")
        for_vm.reclaim(FILE_BYTES // 2)
        yield Mounted(mountpoint, state)
    finally:
        end(process.pid)


def test_parts_add_up_over_volumes(lab: Lab) -> None:
    mounted = lab.mount()
    for number in range(3):
        (mounted.path / f"vm{number}").write_bytes(os.urandom(MIB) * (number + 1))
    report = mounted.status()
    for key in ("pool", "tables", "daemon_memory", "resident", "footprint", "touched"):
        assert report["total"][key] == sum(volume[key] for volume in report["volumes"].values()), key
