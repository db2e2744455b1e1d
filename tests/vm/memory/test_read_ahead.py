"""What comes with a page that a VM faults: much while it works, little while it idles."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator

import pytest

from blockstore.daemon.host import mounts
from blockstore.daemon.host.process_stat import processor_s
from blockstore.vm import resident
from blockstore.vm.memory.read_ahead import IDLE_AFTER_S, IDLE_BYTES, WORKING_SHARE, ReadAhead, set_read_ahead
from tests.daemon.lab import Mounted, ask, drop, end, noisy, put, said, spawn

pytestmark = [
    pytest.mark.mount,
    pytest.mark.skipif(os.geteuid() != 0, reason="read-ahead of a file system is for root to set"),
]

MIB = 1 << 20
FAR_BYTES = 128 << 10

VM = """
import mmap, os, sys, time
descriptor = os.open(sys.argv[1], os.O_RDWR)
mapping = mmap.mmap(descriptor, 0)
print("ready", flush=True)
for line in sys.stdin:
    what, number = line.split()
    if what == "touch":
        mapping[int(number)]
    elif what == "unmap":  # or its pages cannot be dropped
        mapping.madvise(mmap.MADV_DONTNEED)
    else:
        until = time.process_time() + float(number)
        while time.process_time() < until:
            pass
    print("done", flush=True)
"""


@pytest.fixture
def mounted(standing: Callable[[], Mounted]) -> Mounted:
    """The mount that all tests of this file share."""
    return standing()


@pytest.fixture
def vm(mounted: Mounted) -> Iterator[subprocess.Popen[str]]:
    put(mounted.path / "vm", noisy(4 * MIB, 1))
    process = spawn(VM, str(mounted.path / "vm"))
    try:
        assert said(process) == "ready"
        yield process
    finally:
        end(process.pid)


def comes_with_a_page(mounted: Mounted, vm: subprocess.Popen[str]) -> int:
    """Bytes that are resident after the VM has looked at one in the middle."""
    ask(vm, "unmap 0")
    drop(mounted.path / "vm")
    assert resident.of_file(mounted.path / "vm").resident == 0
    ask(vm, f"touch {2 * MIB}")
    return resident.of_file(mounted.path / "vm").resident


def test_of_a_file_that_is_open(mounted: Mounted, vm: subprocess.Popen[str]) -> None:
    mount = mounts.find(mounted.path)
    volume = (mounted.path / "vm").stat().st_ino
    for size_bytes in (IDLE_BYTES, FAR_BYTES, 0, FAR_BYTES):
        set_read_ahead(mount, volume, [vm.pid], size_bytes)
        assert comes_with_a_page(mounted, vm) == max(size_bytes, 4096)
    set_read_ahead(mount, volume + 1, [vm.pid], 0)
    set_read_ahead(mount, volume, [os.getpid()], 0)
    assert comes_with_a_page(mounted, vm) == FAR_BYTES, "another's file, another process"


def test_others_keep_theirs(mounted: Mounted, vm: subprocess.Popen[str]) -> None:
    set_read_ahead(mounts.find(mounted.path), (mounted.path / "vm").stat().st_ino, [vm.pid], 0)
    other = spawn(VM, str(mounted.path / "vm"))
    try:
        assert said(other) == "ready"
        assert comes_with_a_page(mounted, other) == FAR_BYTES
    finally:
        end(other.pid)


def test_a_vm_that_works_and_idles(mounted: Mounted, vm: subprocess.Popen[str]) -> None:
    read_ahead = ReadAhead(mounts.find(mounted.path), (mounted.path / "vm").stat().st_ino, lambda: [vm.pid])
    now_s = 0.0
    for works in (False, True, False):
        read_ahead.tick(now_s)  # what it did before is forgotten
        if works:
            before_s = processor_s(vm.pid)
            ask(vm, f"work {WORKING_SHARE * 2}")
            assert processor_s(vm.pid) > before_s
        now_s += 1
        read_ahead.tick(now_s)
        assert comes_with_a_page(mounted, vm) == FAR_BYTES, "what has just begun, or still works"
        now_s += IDLE_AFTER_S
        read_ahead.tick(now_s)
        assert comes_with_a_page(mounted, vm) == IDLE_BYTES
