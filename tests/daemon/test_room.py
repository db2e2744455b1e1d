"""A full pool: writers wait and can be killed, readers go on, and nothing is lost when there is room again."""

from __future__ import annotations

import os

import pytest

from tests.daemon.lab import Lab, Mounted, ask, blockstore, cold, end, ended, noisy, put, said, spawn, until

pytestmark = pytest.mark.mount

MIB = 1 << 20
POOL_MIB = 16

WRITER = """
import os, random, sys
descriptor = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
for number in range(int(sys.argv[2])):
    os.write(descriptor, random.Random(f"{sys.argv[3]}-{number}").randbytes(1 << 20))
    print(number, flush=True)
print("synced" if os.fsync(descriptor) is None else "", flush=True)
sys.stdin.readline()
"""
"""Writes so many MiB that nothing compresses, and says so after each."""


def half_full(lab: Lab, *, lane: bool) -> Mounted:
    """A mount whose pool is half full of `old`."""
    mounted = lab.mount(lane=lane, pool_limit=f"{POOL_MIB}M")
    put(mounted.path / "old", noisy(POOL_MIB // 2 * MIB, "old"))
    return mounted


@pytest.fixture
def full(lab: Lab, lane: bool) -> Mounted:
    """In either mode."""
    return half_full(lab, lane=lane)


@pytest.fixture
def full_with_lane(lab: Lab) -> Mounted:
    """pyfuse3 knows neither interrupts nor fallocate: without the lane a writer waits until there is room."""
    return half_full(lab, lane=True)


def content(mebibytes: int, seed: str) -> bytes:
    return b"".join(noisy(MIB, f"{seed}-{number}") for number in range(mebibytes))


def is_stalled(mounted: Mounted) -> bool:
    return "no room" in mounted.log()


def test_a_writer_waits_and_goes_on_when_a_file_is_deleted(full: Mounted) -> None:
    writer = spawn(WRITER, str(full.path / "new"), "12", "new")
    try:
        until(lambda: is_stalled(full), "the writer is held up")
        old = full.path / "old"
        assert cold(old) == noisy(POOL_MIB // 2 * MIB, "old"), "reads go on"
        result = blockstore("status", str(full.path))
        assert result.returncode == 0 and "writes wait" in result.stderr, result
        old.unlink()
        while (line := said(writer)) != "synced":
            assert line
        assert cold(full.path / "new") == content(12, "new")
        assert not blockstore("status", str(full.path)).stderr
    finally:
        end(writer.pid)


def test_a_writer_that_waits_can_be_killed(full_with_lane: Mounted) -> None:
    full = full_with_lane
    writer = spawn(WRITER, str(full.path / "new"), "12", "new")
    until(lambda: is_stalled(full), "the writer is held up")
    writer.kill()
    assert ended(writer.pid, 10), "it hangs in the kernel"
    writer.wait(10)
    assert cold(full.path / "old") == noisy(POOL_MIB // 2 * MIB, "old")
    size = (full.path / "new").stat().st_size
    assert cold(full.path / "new") == content(12, "new")[:size]


def test_memory_that_is_punched_out_makes_room(full_with_lane: Mounted) -> None:
    full = full_with_lane
    writer = spawn(WRITER, str(full.path / "new"), "12", "new")
    try:
        until(lambda: is_stalled(full), "the writer is held up")
        run = spawn(
            "import ctypes, os, sys; libc = ctypes.CDLL(None, use_errno=True); d = os.open(sys.argv[1], os.O_RDWR);"
            "print(libc.fallocate(d, 3, ctypes.c_long(0), ctypes.c_long(6 << 20)), flush=True)",
            str(full.path / "old"),
        )
        assert said(run) == "0"
        run.wait(10)
        while (line := said(writer)) != "synced":
            assert line
        assert cold(full.path / "new") == content(12, "new")
        assert cold(full.path / "old") == bytes(6 * MIB) + noisy(POOL_MIB // 2 * MIB, "old")[6 * MIB :]
    finally:
        end(writer.pid)


def test_a_mapping_waits_too(full: Mounted) -> None:
    """What a VM wrote to its memory is kept by the kernel until there is room."""
    path = full.path / "vm"
    path.touch()
    os.truncate(path, 12 * MIB)
    program = (
        "import mmap, os, random, sys; d = os.open(sys.argv[1], os.O_RDWR); m = mmap.mmap(d, 0)\n"
        "m[:] = random.Random('vm').randbytes(len(m)); print('dirty', flush=True)\n"
        "for line in sys.stdin:\n    os.fsync(d); print('synced', flush=True)"
    )
    vm = spawn(program, str(path))
    try:
        assert said(vm) == "dirty"
        assert vm.stdin is not None
        vm.stdin.write("sync\n")
        until(lambda: is_stalled(full), "the write-back is held up")
        (full.path / "old").unlink()
        assert said(vm) == "synced"
        assert cold(path) == noisy(12 * MIB, "vm")
        assert ask(vm, "sync") == "synced"
    finally:
        end(vm.pid)
