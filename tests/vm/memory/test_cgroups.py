"""Memory cgroups, on the real ones of this machine."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from blockstore.daemon.host.memory_limit import V1, V2
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
        made = cgroups.create("test vm", cgroups.of_process("self"))
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
        with pytest.raises(LookupError, match="other processes too"):
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
        with pytest.raises(LookupError, match=r"has other processes too|no memory cgroups"):
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
