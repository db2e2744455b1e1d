"""The lane's thread runs where the faults happen, as far as it may; nothing else of the daemon moves.

Faults are counted, not timed: one of 68 is looked at, or of 1088, and chance decides which.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from benchlab.machine import pinned
from suitelab.identity import WORKSPACE_PREFIX

from blockstore.daemon.host import process_stat
from blockstore.daemon.lane.core_choice import LOOKS
from blockstore.daemon.lane.lane_core import SELDOM_BITS, LaneCore
from tests.daemon.lab import Lab, Mounted, apart, blockstore, drop, noisy, put, until

CORES = sorted(os.sched_getaffinity(0))
PAGES = 1024
ROUNDS = 60
"""Of PAGES faults each, within which the lane must have moved. As a rule two or three have the looks that it takes."""

CPUSETS = Path("/sys/fs/cgroup/cpuset")

needs_two = pytest.mark.skipif(len(CORES) < 2, reason="needs two processors")

BLOCKS_IN_A_CHILD = """
import subprocess, sys
with subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE) as child:
    print(child.pid, flush=True)
    sys.stdin.read()
"""
"""A process with a child, which is no child of ours."""


def masks(pid: int) -> list[set[int]]:
    """The affinities of all threads of a process."""
    found = []
    for thread in os.listdir(f"/proc/{pid}/task"):
        with suppress(ProcessLookupError):  # it has ended meanwhile
            found.append(os.sched_getaffinity(int(thread)))
    return found


def moved(mounted: Mounted) -> list[set[int]]:
    """The affinities of those threads of the daemon that are not the daemon's own."""
    pid = mounted.daemon_pid()
    return [mask for mask in masks(pid) if mask != os.sched_getaffinity(pid)]


def fault(path: Path, core: int) -> None:
    """PAGES faults of one block from this core."""
    drop(path)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
        with pinned(core):
            for page in range(PAGES):
                os.pread(descriptor, 4096, page * 4096)
    finally:
        os.close(descriptor)


def memory(mounted: Mounted) -> Path:
    path = mounted.path / "memory"
    put(path, noisy(PAGES * 4096, 1))
    return path


def follows(mounted: Mounted, path: Path, core: int) -> bool:
    for _ in range(ROUNDS):
        fault(path, core)
        if moved(mounted) == [{core}]:
            return True
    return False


@needs_two
@pytest.mark.mount
def test_the_lane_follows_the_faults_and_does_so_after_a_reload(lab: Lab) -> None:
    mounted = lab.mount()
    path = memory(mounted)
    for core in (CORES[0], CORES[1], CORES[0]):
        assert follows(mounted, path, core)
    assert blockstore("reload", str(mounted.path)).returncode == 0
    assert moved(mounted) == []
    assert follows(mounted, path, CORES[1])


@pytest.mark.mount
def test_the_controller_is_known_by_its_parent(lab: Lab) -> None:
    mounted = lab.mount()
    put(mounted.path / "memory", b"x")
    assert process_stat.parent(mounted.controller_pid()) == mounted.daemon_pid()
    assert blockstore("reload", str(mounted.path)).returncode == 0
    assert process_stat.parent(mounted.controller_pid()) == mounted.daemon_pid()


@needs_two
@pytest.mark.mount
def test_lane_cpu_none_leaves_it_to_the_scheduler_also_after_a_reload(lab: Lab) -> None:
    mounted = lab.mount("--lane-cpu", "none")
    path = memory(mounted)
    for _ in range(ROUNDS // 4):
        fault(path, CORES[0])
        assert moved(mounted) == []
    assert blockstore("reload", str(mounted.path)).returncode == 0
    for _ in range(ROUNDS // 4):
        fault(path, CORES[1])
        assert moved(mounted) == []


@needs_two
@pytest.mark.mount
def test_a_daemon_that_may_not_run_there_stays_and_says_so_once(lab: Lab) -> None:
    with pinned(CORES[0]):
        mounted = lab.mount()
    path = memory(mounted)
    warning = f"faults come from core {CORES[1]}, which the affinity of the daemon leaves out"
    for _ in range(ROUNDS):
        fault(path, CORES[1])
        if warning in mounted.log():
            break
    until(lambda: warning in mounted.log(), "the warning is in the log")
    for core in (CORES[0], CORES[1]) * 4:
        fault(path, core)
        fault(path, core)
    assert {frozenset(mask) for mask in masks(mounted.daemon_pid())} == {frozenset({CORES[0]})}
    assert mounted.log().count("the lane answers them from another core") == 1
    assert "WARNING" in next(line for line in mounted.log().splitlines() if warning in line)


@needs_two
@pytest.mark.parametrize("tid", ["self", "child", "kernel", "ended"])
def test_our_own_processes_and_those_that_nobody_knows_do_not_count(tid: str) -> None:
    def check() -> None:
        with waiting_child(CORES[0]) as child:
            number = {"self": os.getpid(), "child": child, "kernel": 0, "ended": ended_child()}[tid]
            look_often(LaneCore(), number)
            assert os.sched_getaffinity(0) == set(CORES)

    apart(check, 60)


@needs_two
def test_a_process_of_others_counts() -> None:
    def check() -> None:
        with waiting_grandchild(CORES[0]) as other:
            look_often(LaneCore(), other)
            assert os.sched_getaffinity(0) == {CORES[0]}

    apart(check, 60)


@needs_two
@pytest.mark.skipif(not (CPUSETS / "cpuset.cpus").exists(), reason="needs cpuset control groups, version 1")
def test_a_cpuset_that_leaves_out_the_core_later_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    def check() -> None:
        with waiting_grandchild(CORES[0]) as first, waiting_grandchild(CORES[1]) as second:
            lane_core = LaneCore()
            with cpuset(CORES[0]):
                for tid in (second, first, second):
                    look_often(lane_core, tid)
                assert os.sched_getaffinity(0) == {CORES[0]}
        (record,) = caplog.records
        assert record.levelno == logging.WARNING
        assert f"the lane cannot move to core {CORES[1]}, where the faults happen" in record.getMessage()

    apart(check, 60)


def look_often(lane_core: LaneCore, tid: int) -> None:
    """So often that it must have moved, if these looks count."""
    for _ in range(LOOKS << SELDOM_BITS << 2):
        lane_core.look(tid)


def ended_child() -> int:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        return process.pid


@contextmanager
def cpuset(core: int) -> Iterator[None]:
    """This process may run on this core only, whatever it asks for."""
    group = CPUSETS / f"{WORKSPACE_PREFIX}cpuset-{os.getpid()}"
    group.mkdir()
    try:
        (group / "cpuset.mems").write_text((CPUSETS / "cpuset.mems").read_text())
        (group / "cpuset.cpus").write_text(str(core))
        (group / "cgroup.procs").write_text(str(os.getpid()))
        yield
    finally:
        (CPUSETS / "cgroup.procs").write_text(str(os.getpid()))
        group.rmdir()


@contextmanager
def waiting_child(core: int) -> Iterator[int]:
    """A process that waits for its input, on this core; its number."""
    with pinned(core):
        process = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    with process:
        assert process_stat.parent(process.pid) == os.getpid()
        yield process.pid
        assert process.stdin is not None
        process.stdin.close()


@contextmanager
def waiting_grandchild(core: int) -> Iterator[int]:
    """The same of a process that another one has started."""
    with pinned(core):
        process = subprocess.Popen(
            [sys.executable, "-c", BLOCKS_IN_A_CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
    with process:
        assert process.stdout is not None and process.stdin is not None
        yield int(process.stdout.readline())
        process.stdin.close()
