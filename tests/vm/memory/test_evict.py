"""Evicting one file, as seen from its mount and from the processes that have it mapped."""

from __future__ import annotations

import ctypes
import mmap
import os
from pathlib import Path

import pytest
from benchlab.machine import pinned

from blockstore.daemon.host import mounts
from blockstore.vm import resident
from blockstore.vm.memory.evict import Evicted, evict
from blockstore.vm.memory.page_out import age, page_out
from tests.daemon.lab import Lab, ask, end, noisy, put, said, spawn

pytestmark = pytest.mark.mount

MIB = 1 << 20

DIRTIES = """
import mmap, os, sys
os.sched_setaffinity(0, {int(sys.argv[2])})
mapping = mmap.mmap(os.open(sys.argv[1], os.O_RDWR), 0)
print("ready", flush=True)
while sys.stdin.readline():
    for start in range(0, len(mapping), 4096):
        mapping[start] = mapping[start] + 1 & 255
    os.write(1, b"done\\n")  # no memory is given back meanwhile, which would empty this processor's batches of pages
"""


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="needs two processors")
def test_pages_in_the_batches_of_another_processor_leave_too(lab: Lab) -> None:
    """Of a hundred rounds ten left up to 31 pages before they were tried again."""
    mounted = lab.mount()
    path = mounted.path / "memory"
    put(path, noisy(MIB, 1))
    here, there = sorted(os.sched_getaffinity(0))[:2]
    process = spawn(DIRTIES, str(path), str(there))
    try:
        assert said(process) == "ready"
        mappings = list(mounts.mappings(mounts.find(mounted.path)))
        assert len(mappings) == 1
        with pinned(here), path.open("rb") as file:
            for _ in range(60):
                assert ask(process, "dirty") == "done"
                assert evict(file.fileno(), mappings) == Evicted(MIB, 0, 0)
    finally:
        end(process.pid)
        process.wait(60)


def test_what_is_unmapped_meanwhile_is_left_out() -> None:
    """process_madvise(2) answers ENOMEM, and has paged out the rest of the range."""
    with mmap.mmap(-1, mmap.PAGESIZE) as mapping:
        start = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
    page_out(os.getpid(), start, mmap.PAGESIZE)
    with pytest.raises(OSError, match=f"process {os.getpid()}: Invalid argument"):
        page_out(os.getpid(), start + 1, mmap.PAGESIZE)


def test_aged_pages_stay_and_are_unused(lab: Lab) -> None:
    path = lab.mount().path / "memory"
    put(path, noisy(MIB, 1))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapping:
        start = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
        assert mapping[:] == noisy(MIB, 1)
        assert referenced_bytes(start) == MIB
        age(os.getpid(), start, MIB)
        assert referenced_bytes(start) == 0
        assert resident.of_descriptor(file.fileno()).resident == MIB


def referenced_bytes(start: int) -> int:
    """Of our mapping that begins there (proc_pid_smaps(5))."""
    text = Path("/proc/self/smaps").read_text()
    return int(text.partition(f"{start:x}-")[2].partition("Referenced:")[2].split()[0]) << 10
