"""close(2) of a file of the mount waits for nothing, whatever of the file others have changed and is not stored yet.

Evictors, `status`, the controller and backups open the memory files of VMs that run. If their close(2) wrote back what
a VM has dirtied, the VM would stand still for that long, and while the pool is full they would wait for ever and could
not be killed. FUSE_WRITEBACK_CACHE would bring that (docs/decisions.md, "No write-back cache for write(2)").
"""

from __future__ import annotations

import mmap
import os

import pytest

from blockstore.vm import resident
from tests.daemon.lab import Lab, ask, end, ended, noisy, put, ready, said, spawn, until

pytestmark = pytest.mark.mount

MIB = 1 << 20

VM = """
import mmap, os, random, sys
descriptor = os.open(sys.argv[1], os.O_RDWR)
memory = mmap.mmap(descriptor, 0)
memory[:] = random.Random("vm").randbytes(len(memory))
print("ready", flush=True)
for line in sys.stdin:
    os.fsync(descriptor)
    print("synced", flush=True)
"""
"""Has its memory dirty, and lets it be written back when it is told to."""

LOOKS = """
import os, sys
os.close(os.open(sys.argv[1], getattr(os, sys.argv[2])))
print("closed", flush=True)
"""

WAYS = ["O_RDONLY", "O_WRONLY", "O_RDWR"]


@pytest.mark.parametrize("way", WAYS)
def test_closing_a_file_leaves_its_dirty_pages_dirty(lab: Lab, way: str) -> None:
    path = lab.mount().path / "vm"
    put(path, bytes(MIB))
    with path.open("r+b") as file, mmap.mmap(file.fileno(), 0) as memory:
        memory[:] = noisy(MIB, 1)
        os.close(os.open(path, getattr(os, way)))
        assert resident.of_descriptor(file.fileno()) == (MIB, MIB, 0)


@pytest.mark.logs("there is no room for more: (writes wait|a request waits)")
def test_closing_a_file_whose_write_back_waits_for_room(lab: Lab) -> None:
    mounted = lab.mount(pool_limit="16M")
    path, old = mounted.path / "vm", mounted.path / "old"
    put(old, noisy(8 * MIB, "old"))
    path.touch()
    os.truncate(path, 12 * MIB)
    with ready(spawn(VM, str(path))) as vm:
        assert vm.stdin is not None
        vm.stdin.write("sync\n")
        until(lambda: "no room" in mounted.log(), "the write-back is held up")
        for way in WAYS:
            looker = spawn(LOOKS, str(path), way)
            try:
                assert said(looker) == "closed"
                assert ended(looker.pid), "it hangs in the kernel"
            finally:
                end(looker.pid)
                looker.wait(60)
        old.unlink()
        assert said(vm) == "synced"
        assert ask(vm, "sync") == "synced"
