"""`blockstore set`, and the warnings before a pool is full: `status` and `status --check`."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from blockstore.cli.views.health import CRITICAL, OK, WARNING, judge
from blockstore.vm.observe.observe import full_share
from tests.cli.runner import invoke
from tests.daemon.lab import Lab, Mounted, blockstore, cold, end, noisy, one_line, put, said, spawn, until
from tests.daemon.logs import NO_ROOM

pytestmark = pytest.mark.mount

MIB = 1 << 20
WRITER = """
import os, random, sys
descriptor = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
for number in range(int(sys.argv[2])):
    os.write(descriptor, random.Random(f"{number}").randbytes(1 << 20))  # `noisy` of the lab
    print(number, flush=True)
os.fsync(descriptor)
print("synced", flush=True)
"""


def check(mounted: Mounted) -> subprocess.CompletedProcess[str]:
    return invoke("status", mounted.path, "--check")


@NO_ROOM
def test_a_larger_limit_lets_writers_go_on(lab: Lab) -> None:
    mounted = lab.mount(pool_limit="16M")
    put(mounted.path / "old", noisy(4 * MIB, "old"))
    assert check(mounted).returncode == OK
    writer = spawn(WRITER, str(mounted.path / "new"), "24")
    try:
        until(lambda: "writes wait" in check(mounted).stdout, "the pool is full")
        told = check(mounted)
        assert (
            told.returncode == CRITICAL
            and "writes wait" in told.stdout
            and told.stdout.count("\n") == 1
            and "pool=" in told.stdout
        ), told
        assert mounted.total()["stalled"] > 0
        assert cold(mounted.path / "old") == noisy(4 * MIB, "old"), "reads go on"
        result = blockstore("set", str(mounted.path), "--pool-limit", "64M")
        assert result.returncode == 0 and not result.stdout and not result.stderr, result
        while said(writer) != "synced":
            pass
    finally:
        end(writer.pid)
    assert check(mounted).returncode == OK and mounted.total()["pool_limit"] == 64 * MIB
    assert cold(mounted.path / "new") == b"".join(noisy(MIB, number) for number in range(24))


def test_warnings_on_the_way(lab: Lab) -> None:
    mounted = lab.mount(pool_limit="64M")
    assert check(mounted).stdout.startswith("blockstore OK - ")
    put(mounted.path / "one", noisy(53 * MIB, 1))
    warned = check(mounted)
    assert warned.returncode == WARNING and warned.stdout.startswith("blockstore WARNING - the pool is 8"), warned
    assert "is 8" in invoke("status", str(mounted.path)).stderr
    put(mounted.path / "two", noisy(8 * MIB, 2))
    assert check(mounted).returncode == CRITICAL
    (mounted.path / "one").unlink()
    until(lambda: check(mounted).returncode == OK, "all is well again")


def test_a_limit_may_be_lowered_to_what_is_stored(lab: Lab) -> None:
    mounted = lab.mount(pool_limit="64M")
    put(mounted.path / "file", noisy(20 * MIB, 1))
    one_line(invoke("set", mounted.path, "--pool-limit", "16M"), 2, "16 MiB", "free memory first")
    assert mounted.total()["pool_limit"] == 64 * MIB
    assert blockstore("set", str(mounted.path), "--pool-limit", "32M").returncode == 0
    assert mounted.total()["pool_limit"] == 32 * MIB
    assert blockstore("set", str(mounted.path), "--pool-limit", "1G").returncode == 0
    put(mounted.path / "more", noisy(40 * MIB, 2))
    assert cold(mounted.path / "more") == noisy(40 * MIB, 2) and cold(mounted.path / "file") == noisy(20 * MIB, 1)


def test_bad_input(shared: Mounted, tmp_path: Path) -> None:
    for limit in ("lots", "0", "100P"):
        result = invoke("set", shared.path, "--pool-limit", limit)
        assert result.returncode == 2 and "pool-limit" in result.stderr, result
    one_line(invoke("set", shared.path), 2, "--pool-limit")
    one_line(invoke("set", tmp_path, "--pool-limit", "1G"), 1, tmp_path)
    nobody = invoke("status", tmp_path, "--check")
    assert nobody.returncode == 3 and nobody.stdout.startswith("blockstore UNKNOWN - ") and not nobody.stderr
    one_line(invoke("status", shared.path, "--check", "--json"), 2, "--json")


ANSWER = {
    "pool_used": 10,
    "pool_room": 90,
    "stalled": 0,
    "refused_writes": 0,
    "corrupt_reads": 0,
    "lost_blocks": 0,
    "is_orphaned": False,
}

SPACE = {"place": "/state", "free_bytes": 1000, "size_bytes": 4096, "free_inodes": 50, "inodes": 100}
TIER = {
    "place": "file:/tier",
    "failing_since": None,
    "reads_fail": False,
    "reads_waiting": 0,
    "missing_pieces": 0,
    "reason": "it is full",
}


@pytest.mark.parametrize(
    ("changed", "level", "word"),
    [
        ({}, OK, ""),
        ({"pool_used": 79, "pool_room": 21}, OK, ""),
        ({"pool_used": 80, "pool_room": 20}, WARNING, "80%"),
        ({"pool_used": 95, "pool_room": 5}, CRITICAL, "95%"),
        ({"pool_used": 0, "pool_room": 0}, CRITICAL, "100%"),
        ({"stalled": 3}, CRITICAL, "writes wait (3)"),
        ({"refused_writes": 4}, CRITICAL, "writes failed for want of room (4)"),
        ({"corrupt_reads": 2}, CRITICAL, "verify"),
        ({"lost_blocks": 1}, CRITICAL, "lost"),
        ({"is_orphaned": True}, WARNING, "supervisor"),
        ({"state_space": SPACE, "pool_left": 90}, OK, ""),
        (
            {"state_space": SPACE | {"free_bytes": 0}, "pool_left": 90, "stalled": 2},
            CRITICAL,
            "under /state is full (0 B",
        ),
        ({"state_space": SPACE | {"free_bytes": 1}, "pool_left": 90, "pool_room": 1}, WARNING, "1 B of 4.0 KiB free"),
        ({"state_space": SPACE | {"free_bytes": 0}, "pool_left": 90, "stalled": 2, "tier": TIER}, CRITICAL, "/state"),
        ({"stalled": 2, "tier": TIER}, WARNING, "until the tier has taken"),
        (
            {"state_space": SPACE | {"free_inodes": 0}, "pool_left": 90},
            CRITICAL,
            "no inodes left of 100: no file can be",
        ),
        ({"state_space": SPACE | {"free_inodes": 9}, "pool_left": 90}, WARNING, "9 inodes left"),
        ({"state_space": SPACE | {"free_inodes": 0, "inodes": 0}, "pool_left": 90}, OK, ""),
        ({"tier": TIER | {"failing_since": 1.0, "reads_waiting": 1}}, WARNING, "is read as before"),
        ({"tier": TIER | {"failing_since": 1.0, "reads_fail": True}}, WARNING, "VMs that need what is in it wait"),
        ({"tier": TIER | {"failing_since": 1.0, "reads_fail": True, "reads_waiting": 3}}, CRITICAL, "VMs wait for"),
    ],
)
def test_judge(changed: dict[str, Any], level: int, word: str) -> None:
    health = judge({**ANSWER, **changed})
    assert health.level == level and word in " ".join(health.sentences)
    assert bool(health.sentences) == (level != OK)
    assert 0 <= full_share({**ANSWER, **changed}) <= 1
