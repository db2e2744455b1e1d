"""The memory limit of the cgroup: found at all levels, and a mount in it has a full pool, not a killed daemon."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from blockstore.cli.views.health import CRITICAL, OK, WARNING
from blockstore.daemon.host import memory_limit
from blockstore.daemon.host.memory_limit import V2, complaint, of_process, room_for_pool
from blockstore.store.state.pool_limit import MINIMUM_LIMIT_BYTES
from blockstore.vm.memory import cgroups
from blockstore.vm.memory.cgroups import Cgroup
from tests.cli.runner import invoke
from tests.daemon.lab import Lab, Mounted, blockstore, cold, end, noisy, put, run, said, spawn, until
from tests.daemon.lane.test_room import WRITER
from tests.daemon.logs import NO_ROOM

MIB = 1 << 20
LIMIT_MIB = 200


def set_limit(cgroup: Cgroup, size_bytes: int) -> None:
    (cgroup.path / ("memory.max" if cgroup.version == V2 else "memory.limit_in_bytes")).write_text(str(size_bytes))


def killed(cgroup: Cgroup) -> int:
    """How many processes of it the kernel has killed for want of memory."""
    text = (cgroup.path / ("memory.events" if cgroup.version == V2 else "memory.oom_control")).read_text()
    return int(dict(line.split() for line in text.splitlines())["oom_kill"])


@pytest.fixture
def cgroup() -> Iterator[Cgroup]:
    """One with a limit of LIMIT_MIB; below it, `inner` without a limit of its own."""
    try:
        made = cgroups.create("pool-limit", cgroups.home())
    except LookupError as error:
        pytest.skip(f"no memory cgroup can be made here: {error}")
    (made.path / "inner").mkdir()
    set_limit(made, LIMIT_MIB * MIB)
    try:
        yield made
    finally:
        made.kill()
        Cgroup(made.path / "inner", made.version).remove()
        made.remove()


def mount_in(cgroup: Cgroup, lab: Lab, *options: str) -> tuple[Mounted, subprocess.CompletedProcess[str]]:
    """A mount whose processes are in a cgroup below this one; with the default for the pool's limit."""
    mounted = Mounted(lab.mountpoint(), lab.path / "mnt.state")
    command = [sys.executable, "-m", "blockstore", "mount", str(mounted.path), "--state", str(mounted.state), *options]
    result = run(["sh", "-c", f"echo $$ > {cgroup.path}/inner/cgroup.procs && exec {shlex.join(command)}"])
    assert result.returncode == 0, result
    return mounted, result


@pytest.mark.mount
@NO_ROOM
def test_a_pool_is_full_before_the_memory_of_its_cgroup_is(cgroup: Cgroup, lab: Lab) -> None:
    """The writer is in another cgroup: its page cache is its own."""
    mounted, result = mount_in(cgroup, lab)
    assert "pool limit" not in result.stderr, result
    put(mounted.path / "old", noisy(48 * MIB, "old"))
    daemon, limit_bytes = mounted.daemon_pid(), mounted.total()["pool_limit"]
    assert MINIMUM_LIMIT_BYTES < limit_bytes <= room_for_pool(LIMIT_MIB * MIB)
    writer = spawn(WRITER, str(mounted.path / "new"), str(limit_bytes // MIB - 16), "new")
    try:
        until(lambda: "no room" in mounted.log() or killed(cgroup) > 0, "the pool is full")
        check = invoke("status", str(mounted.path), "--check")
        assert check.returncode == CRITICAL and "the pool is full, and writes wait" in check.stdout, check
        assert cold(mounted.path / "old") == noisy(48 * MIB, "old"), "reads go on"
        (mounted.path / "old").unlink()
        while (line := said(writer)) != "synced":
            assert line
    finally:
        end(writer.pid)
    assert killed(cgroup) == 0 and mounted.daemon_pid() == daemon
    parts = (noisy(MIB, f"new-{number}") for number in range(limit_bytes // MIB - 16))
    assert cold(mounted.path / "new") == b"".join(parts)
    assert mounted.umount().returncode == 0


@pytest.mark.mount
def test_a_limit_above_that_of_the_cgroup_is_told(cgroup: Cgroup, lab: Lab) -> None:
    mounted, result = mount_in(cgroup, lab, "--pool-limit", "1G")
    told = "the pool limit of 1024 MiB is more than the "
    assert result.stderr.count(f"blockstore: warning: {told}") == 1 and told in mounted.log(), result
    check = invoke("status", str(mounted.path), "--check")
    assert check.returncode == WARNING and check.stdout.startswith(f"blockstore WARNING - {told}"), check
    fits = blockstore("set", str(mounted.path), "--pool-limit", "64M")
    assert fits.returncode == 0 and not fits.stderr, fits
    assert invoke("status", str(mounted.path), "--check").returncode == OK
    larger = blockstore("set", str(mounted.path), "--pool-limit", "2G")
    assert larger.returncode == 0 and larger.stderr.startswith("blockstore: warning: the pool limit of 2048"), larger
    assert mounted.total()["pool_limit"] == 2048 * MIB
    assert blockstore("set", str(mounted.path), "--pool-limit", "64M").returncode == 0
    set_limit(cgroup, 128 * MIB)
    lowered = invoke("status", str(mounted.path))
    assert "blockstore: warning: the pool limit of 64 MiB is more than the 43 MiB" in lowered.stderr, lowered


ROOT_V1 = "35 31 0:32 {root} {top} rw,relatime - cgroup cgroup rw,memory\n"
ROOT_V2 = "41 31 0:38 {root} {top} rw,relatime shared:9 - cgroup2 cgroup2 rw\n"


def fake(folder: Path, path: str, root: str = "/", line: str = ROOT_V2) -> Path:
    """A /proc for a process whose cgroup is `path`, with the hierarchy's `root` mounted at `folder`/top."""
    (folder / "proc/self").mkdir(parents=True, exist_ok=True)
    names = "0:" if line == ROOT_V2 else "9:name=systemd:/elsewhere\n4:cpu,memory"
    (folder / "proc/self/cgroup").write_text(f"{names}:{path}\n")
    (folder / "proc/self/mountinfo").write_text(line.format(root=root, top=folder / "top"))
    (folder / "top").mkdir(exist_ok=True)
    return folder / "proc"


def level(folder: Path, **files: str) -> None:
    """One cgroup of version 2; `__` in names is a dot."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text + "\n")


def test_the_least_of_all_levels_counts(tmp_path: Path) -> None:
    proc, top = fake(tmp_path, "/pods.slice/pod 1/container"), tmp_path / "top"
    assert of_process(proc=proc) is None, "nothing is there"
    level(top / "pods.slice/pod 1/container", memory__max="max", memory__high="max")
    assert of_process(proc=proc) is None
    level(top / "pods.slice", memory__max=str(500 * MIB), memory__high="max")
    assert of_process(proc=proc) == 500 * MIB
    level(top / "pods.slice/pod 1", memory__max="max", memory__high=str(300 * MIB))
    assert of_process(proc=proc) == 300 * MIB
    level(top / "pods.slice/pod 1/container", memory__max=str(400 * MIB), memory__high="max")
    assert of_process(proc=proc) == 300 * MIB
    level(top / "pods.slice/pod 2", memory__max=str(MIB), memory__high="0")
    level(tmp_path, memory__max="1", memory__high="1")
    assert of_process(proc=proc) == 300 * MIB, "siblings do not count, nor what is above the mount"


@pytest.mark.parametrize(
    ("path", "root", "expected"),
    [
        ("/", "/", 200),  # in a cgroup name space: the container's own is mounted
        ("/docker/1", "/docker/1", 200),  # without one, but with its own mounted
        ("/docker/1/inner", "/docker/1", 100),
        ("/docker/2", "/docker/1", 200),  # not below what is mounted
        ("/../other", "/", 200),
        ("/", "/../..", 200),
        ("/gone (deleted)", "/", 200),
    ],
)
def test_what_a_container_sees(tmp_path: Path, path: str, root: str, expected: int) -> None:
    level(tmp_path / "top", memory__max=str(200 * MIB), memory__high="max")
    level(tmp_path / "top/inner", memory__max=str(100 * MIB), memory__high="max")
    level(tmp_path / "other", memory__max=str(MIB), memory__high="max")
    assert of_process(proc=fake(tmp_path, path, root)) == expected * MIB


def test_version_1(tmp_path: Path) -> None:
    proc = fake(tmp_path, "/docker/1/inner", "/docker/1", ROOT_V1)
    level(tmp_path / "top/inner", memory__stat=f"cache 1\nhierarchical_memory_limit {(1 << 63) - 4096}\nrss 2")
    assert of_process(proc=proc) is None
    level(tmp_path / "top/inner", memory__stat=f"cache 1\nhierarchical_memory_limit {250 * MIB}\nrss 2")
    assert of_process(proc=proc) == 250 * MIB
    assert of_process(proc=tmp_path / "none") is None


def test_complaint() -> None:
    assert not complaint(1 << 40, None)
    room_bytes = room_for_pool(1024 * MIB)
    assert 800 * MIB < room_bytes < 1024 * MIB - memory_limit.PROCESSES_BYTES
    assert not complaint(room_bytes, 1024 * MIB) and "1024 MiB" in complaint(room_bytes + 1, 1024 * MIB)
    assert room_for_pool(MIB) == 0 and complaint(MINIMUM_LIMIT_BYTES, MIB)


def test_no_limit_is_advised_that_no_pool_can_have() -> None:
    told = complaint(MINIMUM_LIMIT_BYTES, 88 * MIB)
    assert "`blockstore set`" not in told and "raise that to 89 MiB" in told, told
    assert not complaint(MINIMUM_LIMIT_BYTES, 89 * MIB)
