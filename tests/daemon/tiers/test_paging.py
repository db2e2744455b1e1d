"""Paging on a mount: more memory than the pool holds is written and read back, whatever the tier and the daemon do."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from benchlab.peers.valkey_server import Server

from tests.cli.runner import invoke
from tests.daemon.lab import (
    Lab,
    Mounted,
    blockstore,
    cold,
    drop,
    end,
    ended,
    noisy,
    one_line,
    put,
    run,
    said,
    spawn,
    until,
)
from tests.store.material import near, noise, text

pytestmark = pytest.mark.mount

MIB = 1 << 20
POOL_MIB = 8
POOL = f"{POOL_MIB}M"
VM_MIB = 20

READER = """
import os, sys
descriptor = os.open(sys.argv[1], os.O_RDONLY)
os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
print("begins", flush=True)
print(len(os.pread(descriptor, 1 << 20, int(sys.argv[2]))), flush=True)
"""

VM = """
import mmap, os, signal, sys
signal.signal(signal.SIGUSR1, lambda number, frame: print("signal", flush=True))
mapping = mmap.mmap(os.open(sys.argv[1], os.O_RDONLY), 0, prot=mmap.PROT_READ)
print("begins", flush=True)
with open("/dev/shm/" + str(os.getpid()), "w+b", buffering=0) as file:
    os.unlink(file.name)
    print(file.write(memoryview(mapping)[int(sys.argv[2]):][:4096]), flush=True)
print(mapping[int(sys.argv[2])], flush=True)
"""
"""Has the kernel fault on one block, and is sent signals meanwhile, as threads of QEMU are: no I/O may fail for it."""

WRITER = """
import os, random, sys
descriptor = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
for number in range(int(sys.argv[2])):
    os.pwrite(descriptor, random.Random(f"vm-{number}").randbytes(1 << 20), number << 20)
    print(number, flush=True)
os.fsync(descriptor)
print("synced", flush=True)
"""


BUSY = """
import mmap, os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_DIRECT)
buffer = mmap.mmap(-1, 1 << 20)
buffer[:] = os.urandom(4096) * 256
os.pwrite(descriptor, buffer, 0)
print("begins", flush=True)
while True:
    os.pwrite(descriptor, buffer, 0)
"""
"""One content only, which needs no room."""

PARTS = """
import os, sys
descriptor = os.open(sys.argv[1], os.O_RDWR)
for mib in range(8):
    os.pwrite(descriptor, b"part", (mib << 20) + 77)
print("written", flush=True)
"""


@pytest.fixture
def disk(tmp_path: Path) -> str:
    return f"file:{tmp_path}/tier"


@contextmanager
def server_at(place: Path) -> Iterator[Server]:
    """One that remembers what it was told when it is killed. A child of the test's own process, which stops it."""
    server = Server(place, "--appendonly", "yes", "--appendfsync", "always")
    try:
        yield server
    finally:
        server.stop()


def content(mebibytes: int) -> bytes:
    return b"".join(noisy(MIB, f"vm-{number}") for number in range(mebibytes))


def fill(mounted: Mounted) -> bytes:
    """`vm` with more than the pool holds, most of which is in the tier then."""
    data = content(VM_MIB)
    put(mounted.path / "vm", data)
    drop(mounted.path / "vm")
    total = mounted.total()
    assert total["pool"] <= total["pool_limit"] and total["paged"] > (VM_MIB - POOL_MIB) * MIB, total
    assert total["tier"]["bytes"] >= total["stored_paged"] > 0 and total["stored"] <= POOL_MIB * MIB
    return data


def tier(mounted: Mounted) -> dict[str, object]:
    figures: dict[str, object] = mounted.total()["tier"]
    return figures


def test_more_than_the_pool_holds(lab: Lab, disk: str, tmp_path: Path) -> None:
    mounted = lab.mount("--spill", disk, pool_limit=POOL)
    vm, data = mounted.path / "vm", bytearray(fill(mounted))
    blocks = [text(number % 300) if number % 3 else near(noise(number), 1) for number in range(900)]
    put(mounted.path / "other", b"".join(blocks))
    assert cold(vm) == data
    with vm.open("r+b", buffering=0) as file:  # parts of blocks that are in the tier
        for offset in range(0, 8 * MIB, 300_000):
            file.seek(offset + 77)
            file.write(b"part")
            data[offset + 77 : offset + 81] = b"part"
    os.truncate(vm, len(data) - 5000)
    os.truncate(vm, len(data))
    data[-5000:] = bytes(5000)
    assert run(["cp", "--sparse=never", str(vm), str(mounted.path / "copy")]).returncode == 0
    for path, expected in ((vm, data), (mounted.path / "copy", data), (mounted.path / "other", b"".join(blocks))):
        assert cold(path) == expected, path
    status = invoke("status", str(mounted.path))
    assert f"In the tier {disk}: " in status.stdout and not status.stderr, status
    assert invoke("status", str(mounted.path), "--check").returncode == 0
    result = blockstore("verify", str(mounted.path))
    assert result.returncode == 0 and "all is well" in result.stdout, result
    assert "ERROR" not in mounted.log() and "CRITICAL" not in mounted.log()
    for path in (vm, mounted.path / "copy", mounted.path / "other"):
        path.unlink()
    until(lambda: tier(mounted)["pieces"] == 0, "pieces that nobody needs are forgotten")
    until(lambda: not any((tmp_path / "tier").read_bytes()[4096:MIB]), "and deleted")


def test_a_write_into_what_is_paged_beside_writers_that_never_rest(lab: Lab, disk: str) -> None:
    mounted = lab.mount("--spill", disk, pool_limit=POOL)
    data = fill(mounted)
    writers = [spawn(BUSY, str(mounted.path / f"busy{number}")) for number in range(16)]
    try:
        assert [said(writer) for writer in writers] == ["begins"] * 16
        writer = spawn(PARTS, str(mounted.path / "vm"))
        assert said(writer, 20) == "written"
        writer.wait(60)
    finally:
        for each in writers:
            end(each.pid)
            each.wait(60)
    parts = b"".join(data[mib * MIB : mib * MIB + 77] + b"part" for mib in range(8))
    found = cold(mounted.path / "vm")
    assert b"".join(found[mib * MIB : mib * MIB + 81] for mib in range(8)) == parts


def test_what_a_vm_works_in_again_comes_back(lab: Lab, disk: str) -> None:
    mounted = lab.mount("--spill", disk, pool_limit=POOL)
    data = fill(mounted)
    os.truncate(mounted.path / "vm", 2 * MIB)
    assert mounted.total()["paged"] == 2 * MIB
    assert blockstore("set", str(mounted.path), "--pool-limit", "16M").returncode == 0
    until(lambda: cold(mounted.path / "vm") == data[: 2 * MIB] and not mounted.total()["paged"], "all came back")
    assert cold(mounted.path / "vm") == data[: 2 * MIB] and tier(mounted)["back_bytes"]


def test_the_daemon_is_killed_while_it_pages_out(lab: Lab, disk: str) -> None:
    mounted = lab.mount("--spill", disk, pool_limit=POOL)
    writer = spawn(WRITER, str(mounted.path / "vm"), "24")
    try:
        for line in iter(lambda: said(writer), "synced"):
            if line in ("7", "13", "20"):
                mounted.kill_daemon()
        assert cold(mounted.path / "vm") == content(24)
    finally:
        end(writer.pid)
        writer.wait(60)
    result = blockstore("verify", str(mounted.path))
    assert result.returncode == 0, result
    assert mounted.umount().returncode == 0
    result = blockstore("verify", "--state", str(mounted.state))
    assert result.returncode == 0, result


@pytest.mark.logs("valkey://.* is away: ", "there is no room for more: ")
def test_reads_wait_for_a_server_that_is_away(lab: Lab, tmp_path: Path) -> None:
    with server_at(tmp_path) as server:
        reads_wait(lab, server)


def reads_wait(lab: Lab, server: Server) -> None:
    mounted = lab.mount("--spill", f"valkey://127.0.0.1:{server.port}", pool_limit=POOL)
    data = fill(mounted)
    server.stop()
    readers = [spawn(READER, str(mounted.path / "vm"), str(number * MIB)) for number in range(2)]
    readers.append(spawn(VM, str(mounted.path / "vm"), str(9 * MIB)))
    try:
        assert [said(reader) for reader in readers] == ["begins"] * 3
        until(lambda: "is away" in invoke("status", str(mounted.path)).stderr, "status says so")
        assert invoke("status", str(mounted.path), "--check").returncode in (1, 2)
        until(lambda: tier(mounted)["reads_waiting"] == 3, "reads wait")
        os.kill(readers[2].pid, signal.SIGUSR1)
        readers[0].kill()
        assert ended(readers[0].pid), "it hangs in the kernel"
        assert not ended(readers[2].pid, 0), "a signal has killed a VM that waited for its memory"
        # How much room the pager has left when the server goes away is a matter of time.
        assert blockstore("set", str(mounted.path), "--pool-limit", f"{2 * POOL_MIB}M").returncode == 0
        put(mounted.path / "new", noisy(MIB, "new"))
        assert cold(mounted.path / "new") == noisy(MIB, "new"), "the others go on"
        server.start()
        assert said(readers[1]) == str(MIB)
        assert [said(readers[2]) for _ in range(2)] == ["signal", "4096"]
        assert cold(mounted.path / "vm") == data
        until(lambda: not invoke("status", str(mounted.path)).stderr, "all is well again")
        assert "answers again" in mounted.log()
    finally:
        for reader in readers:
            end(reader.pid)
            reader.wait(60)


@contextmanager
def small_file_system(place: Path, size: str) -> Iterator[Callable[[str], None]]:
    """Yields what makes it larger."""
    place.mkdir()
    assert run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(place)]).returncode == 0
    try:
        yield lambda more: run(["mount", "-o", f"remount,size={more}", str(place)]).check_returncode()
    finally:
        run(["umount", "--lazy", str(place)])


@pytest.mark.logs("the file system of the tier .* is full; nothing more", "there is no room for more: ")
def test_writes_wait_for_a_full_disk(lab: Lab, tmp_path: Path) -> None:
    with small_file_system(tmp_path / "disk", "6M") as enlarge:
        mounted = lab.mount("--spill", f"file:{tmp_path}/disk/tier", pool_limit=POOL)
        writer = spawn(WRITER, str(mounted.path / "vm"), "24")
        try:
            until(lambda: "no room" in mounted.log(), "the writer is held up")
            found = invoke("status", str(mounted.path))
            assert "is full" in found.stderr and "writes wait" in found.stderr, found
            check = invoke("status", str(mounted.path), "--check")
            assert check.returncode == 2 and "what is in it is read as before" in check.stdout, check
            assert "VMs" not in check.stdout and mounted.total()["tier"]["reads_fail"] is False, check
            enlarge("100M")
            while (line := said(writer)) != "synced":
                assert line
            assert cold(mounted.path / "vm") == content(24)
        finally:
            end(writer.pid)
            writer.wait(60)
        assert mounted.umount("--discard").returncode == 0 and not (tmp_path / "disk/tier").exists()


@pytest.mark.logs("the tier .* cannot be opened: Read-only file system")
def test_a_read_only_disk_is_told_of_before_a_vm_waits_for_it(lab: Lab, tmp_path: Path) -> None:
    def check() -> str:
        return blockstore("status", str(mounted.path), "--check").stdout

    with small_file_system(tmp_path / "disk", "200M"):
        mounted = lab.mount("--spill", f"file:{tmp_path}/disk/tier", pool_limit=POOL)
        put(mounted.path / "vm", content(24))
        assert mounted.total()["tier"]["pieces"] and mounted.umount().returncode == 0
        assert run(["mount", "-o", "remount,ro", str(tmp_path / "disk")]).returncode == 0
        again = blockstore("mount", str(mounted.path), "--state", str(mounted.state), "--pool-limit", POOL)
        assert again.returncode == 0 and "Read-only file system" in again.stderr, again
        until(lambda: "VMs that need what is in it wait" in check(), "what cannot be read is told of")
        assert "read as before" not in check()
        assert mounted.umount().returncode == 0


@pytest.mark.logs("the tier .* is not there", r"\d+ pieces of the VMs' memory are in --spill")
def test_mounted_again_without_its_tier_and_with(lab: Lab, disk: str, tmp_path: Path) -> None:
    mounted = lab.mount("--spill", disk, pool_limit=POOL)
    data = fill(mounted)
    assert mounted.umount().returncode == 0
    (tmp_path / "tier").rename(tmp_path / "elsewhere")
    command = ("mount", str(mounted.path), "--state", str(mounted.state), "--pool-limit", POOL)
    result = blockstore(*command)
    assert result.returncode == 0 and f"{disk} is not there; what is in the tier is waited for" in result.stderr, result
    reader = spawn(READER, str(mounted.path / "vm"), "0")
    try:
        assert said(reader) == "begins"
        until(lambda: tier(mounted)["reads_waiting"] != 0, "a read waits")
        mounted.kill_daemon()  # the next one gets the same request, and waits too
        until(lambda: tier(mounted)["reads_waiting"] != 0, "it waits again")
        (tmp_path / "elsewhere").rename(tmp_path / "tier")
        assert said(reader) == str(MIB)
    finally:
        end(reader.pid)
        reader.wait(60)
    assert cold(mounted.path / "vm") == data
    one_line(mounted_with(mounted, "file:/elsewhere"), 2, "pieces of the VMs' memory are in --spill", disk)
    mounted = lab.mount(pool_limit=POOL)
    (tmp_path / "tier").rename(tmp_path / "elsewhere")
    one_line(mounted.umount("--discard"), 1, "the state is deleted, but not what it had in its tier", disk)
    assert not mounted.state.exists()


def mounted_with(mounted: Mounted, url: str) -> subprocess.CompletedProcess[str]:
    """Mounting the same again with another tier, after an unmount."""
    assert mounted.umount().returncode == 0
    return blockstore("mount", str(mounted.path), "--state", str(mounted.state), "--spill", url)


@pytest.mark.logs("has lost 1 pieces; ", "the tier has no piece 0 for it")
def test_a_tier_that_has_lost_a_piece(lab: Lab, disk: str, tmp_path: Path) -> None:
    mounted = lab.mount("--spill", disk, pool_limit=POOL)
    data = fill(mounted)
    assert mounted.umount().returncode == 0
    with (tmp_path / "tier").open("r+b") as file:  # its length says that piece 0 is not there
        file.seek(4096)
        file.write(bytes(4))
    result = blockstore("verify", "--state", str(mounted.state))
    assert result.returncode == 6 and "piece 0 of the tier, with 256 records, is missing" in result.stdout, result
    mounted = lab.mount(pool_limit=POOL)
    until(lambda: "lost 1 pieces" in mounted.log(), "the log says so")
    assert "has lost pieces (1)" in invoke("status", str(mounted.path), "--check").stdout
    with (mounted.path / "vm").open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_RANDOM)
        with pytest.raises(OSError, match="Input/output error"):
            os.pread(file.fileno(), 4096, 0)
        assert os.pread(file.fileno(), 4096, 15 * MIB) == data[15 * MIB : 15 * MIB + 4096]
    result = blockstore("verify", str(mounted.path))
    assert result.returncode == 6 and "vm: the block at 0 cannot be read" in result.stdout, result
    put(mounted.path / "vm", data)
    assert cold(mounted.path / "vm") == data
    assert blockstore("verify", str(mounted.path)).returncode == 0


def test_what_cannot_be_a_tier(lab: Lab, tmp_path: Path) -> None:
    """The other words for it: test_spill.py."""
    other = lab.mount("--spill", f"file:{tmp_path}/other", name="other", pool_limit=POOL)
    for url, code, words in (
        ("valkey://127.0.0.1:1", 1, "--spill valkey://127.0.0.1:1 cannot be used"),
        (f"file:{tmp_path}/other", 2, "in use by another mount"),
        (f"file:{other.path}/tier", 2, "lies in the blockstore mount"),
    ):
        result = blockstore("mount", str(lab.mountpoint()), "--state", str(lab.path / "state"), "--spill", url)
        one_line(result, code, words)
        assert not (lab.path / "state").exists()


@pytest.mark.logs("valkey://.* is away: ", "there is no room for more: ")
def test_a_signal_ends_a_mount_whose_tier_is_away(lab: Lab, tmp_path: Path) -> None:
    with server_at(tmp_path) as server:
        mounted = lab.mount("--spill", f"valkey://127.0.0.1:{server.port}", pool_limit=POOL)
        fill(mounted)
    pid = mounted.supervisor_pid()
    os.kill(pid, signal.SIGTERM)
    assert ended(pid)
