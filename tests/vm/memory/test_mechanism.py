"""How pages leave without a cgroup: what nobody has mapped goes before what a VM uses."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator

import pytest

from blockstore.daemon.host import mounts
from blockstore.vm import resident
from blockstore.vm.memory.mechanism import CHUNK_BYTES, Clock
from tests.daemon.lab import Mounted, ask, drop, end, noisy, put, said, spawn
from tests.vm.kept_pages import kept

pytestmark = pytest.mark.mount

MIB = 1 << 20
SIZE_BYTES = 32 * MIB
STRIDE_BYTES = 4 * MIB
"""What a fault reads at most (do_sync_mmap_readahead in mm/filemap.c), so that each page is faulted by itself."""

VM = """
import mmap, os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR)
mapping = mmap.mmap(descriptor, 0)
os.close(descriptor)
mapping.madvise(mmap.MADV_HUGEPAGE)
print("ready", flush=True)
for line in sys.stdin:
    what, stride = line.split()
    for start in range(0, len(mapping), int(stride)):
        if what == "write":
            mapping[start] ^= 1
        else:
            mapping[start]
    print("done", flush=True)
"""


@contextlib.contextmanager
def vm(mounted: Mounted) -> Iterator[tuple[subprocess.Popen[str], int, Clock]]:
    """A process that has a file mapped, none of which is resident, and has advised huge pages; a descriptor of the
    file, and its Clock."""
    path = mounted.path / "vm"
    put(path, noisy(SIZE_BYTES, 1))
    drop(path)
    process = spawn(VM, str(path))
    descriptor = os.open(path, os.O_RDONLY)
    try:
        assert said(process) == "ready"
        mount = mounts.find(mounted.path)
        clock = Clock(descriptor, SIZE_BYTES, lambda: list(mounts.mappings_of(process.pid, mount)), lambda: True)
        yield process, descriptor, clock
    finally:
        os.close(descriptor)
        end(process.pid)


def refaults(mounted: Mounted) -> int:
    """Blocks of the file that came back so far."""
    count: int = mounted.status()["volumes"]["vm"]["refaults"]
    return count


def test_what_read_ahead_brought_goes_first_and_what_is_mapped_stays(shared: Mounted) -> None:
    with vm(shared) as (process, _, clock):
        ask(process, f"touch {STRIDE_BYTES}")
        before = clock.resident_bytes()
        used = SIZE_BYTES // STRIDE_BYTES * 4096
        assert before > 4 * used, "a fault has brought more than its page"
        clock.reclaim(before // 2, must=True)
        assert clock.resident_bytes() <= before // 2
        counted = refaults(shared)
        ask(process, f"touch {STRIDE_BYTES}")
        assert refaults(shared) == counted, "what the VM has mapped was not taken away"


def test_what_is_mapped_goes_where_the_rest_is_not_enough(shared: Mounted) -> None:
    with vm(shared) as (process, _, clock):
        ask(process, "touch 4096")
        before = clock.resident_bytes()
        assert before == SIZE_BYTES
        clock.reclaim(before // 2, must=True)
        assert clock.resident_bytes() <= before // 2 + CHUNK_BYTES


def test_what_is_dirty_stays_dirty(shared: Mounted) -> None:
    """POSIX_FADV_DONTNEED starts write-back, and a store into a page that is written back waits."""
    with vm(shared) as (process, descriptor, clock):
        ask(process, f"write {STRIDE_BYTES}")
        dirty_bytes = resident.of_descriptor(descriptor).dirty
        if not dirty_bytes:
            pytest.skip("this kernel does not tell what is dirty: no cachestat(2)")
        clock.reclaim(SIZE_BYTES, must=True)
        found = resident.of_descriptor(descriptor)
        assert found.dirty == dirty_bytes and not found.written_back


def test_where_the_kernel_does_not_say_what_is_dirty_nothing_is_dropped(
    shared: Mounted, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux before 6.5, which has no cachestat(2)."""
    put(shared.path / "vm", noisy(SIZE_BYTES, 1))
    descriptor = os.open(shared.path / "vm", os.O_RDWR)
    try:
        with kept(shared.path / "vm", 0, MIB), monkeypatch.context() as patched:
            patched.setattr(resident, "_SYS_CACHESTAT", -1)
            assert not resident.tells_dirty(descriptor)
            before = resident.of_descriptor(descriptor, 0, MIB)
            Clock(descriptor, SIZE_BYTES, list, lambda: True).reclaim(SIZE_BYTES, must=True)
            assert resident.of_descriptor(descriptor, 0, MIB) == before == (MIB, 0, 0)
    finally:
        os.close(descriptor)
