"""Memory cgroups, on the real ones of this machine."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from blockstore.daemon.host.memory_limit import V1, V2, places
from blockstore.daemon.host.mounts import mount_lines
from blockstore.vm.memory import cgroups
from blockstore.vm.memory.cgroups import Cgroup
from blockstore.vm.memory.mechanism import own_cgroup
from tests.daemon.lab import ask, end, ended, said, spawn

MIB = 1 << 20

READER = """
import os, sys
print("ready", flush=True)
for line in sys.stdin:
    with open(sys.argv[1], "rb") as file:
        while file.read(1 << 20):
            pass
    print("read", flush=True)
"""


@pytest.fixture
def cgroup() -> Iterator[Cgroup]:
    try:
        made = cgroups.create("test vm", cgroups.home())
    except LookupError as error:
        pytest.skip(f"no memory cgroup can be made here: {error}")
    try:
        yield made
    finally:
        made.kill()
        made.remove()


def test_pages_are_taken_back(cgroup: Cgroup, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(os.urandom(48 * MIB))
    descriptor = os.open(tmp_path / "file", os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)
    process = spawn(READER, str(tmp_path / "file"))
    try:
        assert said(process) == "ready"
        cgroup.enter(process.pid)
        assert cgroup.pids() == [process.pid]
        ask(process, "read")
        before = cgroup.cached_bytes()
        assert before >= 40 * MIB
        cgroup.reclaim(24 * MIB)
        assert before - 32 * MIB <= cgroup.cached_bytes() <= before - 16 * MIB
        if cgroup.version == V1:
            assert int((cgroup.path / "memory.limit_in_bytes").read_text()) > 1 << 60, "the limit is as it was"
        cgroup.reclaim(1 << 40)  # all that there is, and no error
        assert own_cgroup(process.pid).path == cgroup.path
    finally:
        end(process.pid)


def test_a_limit_that_a_dead_controller_left_is_set_back(cgroup: Cgroup) -> None:
    if cgroup.version != V1:
        pytest.skip("version 2 has memory.reclaim")
    limit = cgroup.path / "memory.limit_in_bytes"
    limit.write_text(str(64 * MIB))
    assert cgroup.limit_bytes() == 64 * MIB
    Cgroup(cgroup.path, V1, 96 * MIB).restore_limit()
    assert cgroup.limit_bytes() == 96 * MIB
    cgroup.restore_limit()
    assert cgroup.limit_bytes() == -1


def test_children_count(cgroup: Cgroup) -> None:
    child = cgroup.path / "child"
    child.mkdir()
    process, stranger = spawn(READER, "/dev/null"), spawn(READER, "/dev/null")
    try:
        cgroup.enter(process.pid)
        Cgroup(child, cgroup.version).enter(stranger.pid)
        with pytest.raises(LookupError, match=rf"has another process too \(python\S*, process {stranger.pid}\)"):
            own_cgroup(process.pid)
    finally:
        end(process.pid)
        end(stranger.pid)
        child.rmdir()


def test_kill_and_remove(cgroup: Cgroup) -> None:
    process = spawn(READER, "/dev/null")
    assert said(process) == "ready"
    cgroup.enter(process.pid)
    cgroup.kill()
    assert ended(process.pid) and process.wait() == -signal.SIGKILL
    cgroup.remove()
    assert not cgroup.path.exists()
    cgroup.remove()  # not there any more: nothing to do


def test_a_cgroup_with_strangers_is_not_a_vms_own() -> None:
    first, second = spawn(READER, "/dev/null"), spawn(READER, "/dev/null")
    try:
        with pytest.raises(LookupError, match=r"has (another process|\d+ other processes) too|no memory cgroups"):
            own_cgroup(first.pid)
    finally:
        end(first.pid)
        end(second.pid)


def test_nowhere_to_make_one(tmp_path: Path) -> None:
    (tmp_path / "cgroup.procs").touch()
    for version in (V1, V2):
        with pytest.raises(LookupError):
            cgroups.create("vm", Cgroup(tmp_path / "not-there", version))
    assert not (tmp_path / "not-there").exists()


@pytest.fixture
def unified() -> Iterator[Path]:
    """A cgroup of version 2, which need not have the memory controller."""
    root = next((line.path for line in mount_lines() if line.kind == "cgroup2" and line.root == "/"), None)
    if root is None:
        pytest.skip("no cgroup of version 2 is mounted here")
    path = root / f"blockstore-threaded-{os.getpid()}"
    path.mkdir()
    try:
        yield path
    finally:
        for each in sorted(path.glob("**/cgroup.procs"), reverse=True):
            Cgroup(each.parent, V2).remove()


def test_processes_of_threaded_cgroups_are_those_of_their_domain(unified: Path) -> None:
    """As libvirt has QEMU: its threads in emulator and vcpu0."""
    process = spawn(READER, "/dev/null")
    try:
        assert said(process) == "ready"
        Cgroup(unified, V2).enter(process.pid)
        for name in ("emulator", "vcpu0"):
            (unified / name).mkdir()
            (unified / name / "cgroup.type").write_text("threaded")
        (unified / "emulator/cgroup.threads").write_text(str(process.pid))
        with pytest.raises(OSError, match="Operation not supported"):
            (unified / "emulator/cgroup.procs").read_text()
        assert Cgroup(unified, V2).pids() == [process.pid]
        place = next(each for each in places(process.pid) if each.version == V2)
        assert place.path == unified / "emulator", "which has no memory"
    finally:
        end(process.pid)


PID = 4242


def of_fake(folder: Path, path: str) -> Cgroup:
    """What `of_process` finds for a process in that cgroup of version 2, mounted at `folder`/top."""
    (folder / f"proc/{PID}").mkdir(parents=True, exist_ok=True)
    (folder / f"proc/{PID}/cgroup").write_text(f"0::{path}\n")
    (folder / "proc/self").mkdir(exist_ok=True)
    mounted = f"41 31 0:38 / {folder / 'top'} rw,relatime shared:9 - cgroup2 cgroup2 rw\n"
    (folder / "proc/self/mountinfo").write_text(mounted)
    return cgroups.of_process(PID, folder / "proc")


def test_memory_is_charged_to_the_nearest_cgroup_with_the_controller(tmp_path: Path) -> None:
    top = tmp_path / "top"
    scope = "/machine.slice/machine-qemu\\x2d1\\x2dvm1.scope"
    emulator = f"{scope}/libvirt/emulator"
    (top / emulator[1:]).mkdir(parents=True)
    (top / "cgroup.controllers").write_text("cpu io pids\n")
    with pytest.raises(LookupError, match=f"the cgroups at {top} have no memory controller"):
        of_fake(tmp_path, emulator)
    (top / "cgroup.controllers").write_text("cpu io memory pids\n")
    with pytest.raises(LookupError, match="the memory controller is not enabled for /"):
        of_fake(tmp_path, emulator)
    (top / "machine.slice/memory.current").write_text("1\n")
    assert of_fake(tmp_path, emulator).path == top / "machine.slice"
    for nearer in (scope, f"{scope}/libvirt"):
        (top / nearer[1:] / "memory.current").write_text("1\n")
        assert of_fake(tmp_path, emulator).path == top / nearer[1:]


def test_cgroups_that_cannot_be_seen(tmp_path: Path) -> None:
    (tmp_path / "top").mkdir()
    with pytest.raises(LookupError, match=f"it is in a cgroup outside of {tmp_path}/top"):
        of_fake(tmp_path, "/../elsewhere")
    with pytest.raises(LookupError, match="/proc/4243/cgroup cannot be read: No such file or directory"):
        cgroups.of_process(4243, tmp_path / "proc")
