"""How requests are read: through a pipe that holds the largest of them, by splice(2) in the thread that serves."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from blockstore.daemon.fuse import fuse_abi as abi
from blockstore.daemon.fuse.device import Device, spare_pipes
from blockstore.plane.serve.requests import Requests
from blockstore.store.state.home import MemoryHome
from blockstore.store.store import Store
from tests.daemon.lab import Lab, Mounted, abort_below, apart, blockstore, cold, noisy, put, until

SPLICE_NUMBERS = {"x86_64": 275, "aarch64": 76}
"""Of splice(2), by machine (asm/unistd.h)."""

NOBODY = 65534


CAP_SYS_RESOURCE = 24


def largest_pipe_bytes() -> int:
    """What anybody may have; those with CAP_SYS_RESOURCE may have more."""
    return int(Path("/proc/sys/fs/pipe-max-size").read_text())


def has_privilege() -> bool:
    lines = Path("/proc/self/status").read_text().splitlines()
    effective = next(line.split()[1] for line in lines if line.startswith("CapEff:"))
    return bool(int(effective, 16) >> CAP_SYS_RESOURCE & 1)


def test_the_largest_write_is_what_the_pipe_holds_with_a_header() -> None:
    descriptor = os.open(os.devnull, os.O_RDONLY)
    device = Device(descriptor)
    allowed_bytes = 2 * abi.MAXIMUM_WRITE_BYTES if has_privilege() else largest_pipe_bytes()
    assert device.maximum_write_bytes == min(allowed_bytes // 2, abi.MAXIMUM_WRITE_BYTES)
    device.close()
    os.close(descriptor)


def as_nobody() -> None:
    os.setgid(NOBODY)
    os.setuid(NOBODY)
    largest = largest_pipe_bytes()
    device = Device(os.open(os.devnull, os.O_RDONLY))
    assert device.maximum_write_bytes == min(largest // 2, abi.MAXIMUM_WRITE_BYTES)
    # As many pipes as a user may have: those that come then are small, and cannot be widened (pipe(7)).
    pages, kept = int(Path("/proc/sys/fs/pipe-user-pages-soft").read_text()), []
    with contextlib.suppress(PermissionError):
        for _ in range(pages * abi.PAGE_BYTES // largest):
            kept.append(os.pipe())
            fcntl.fcntl(kept[-1][1], fcntl.F_SETPIPE_SZ, largest)
    small = Device(os.open(os.devnull, os.O_RDONLY))
    assert abi.PAGE_BYTES <= small.maximum_write_bytes < device.maximum_write_bytes


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_without_privileges_a_write_is_as_large_as_a_pipe_can_hold() -> None:
    apart(as_nobody, 20)


@pytest.mark.mount
def test_the_lane_waits_in_splice(lab: Lab) -> None:
    """read(2) loses a request whose reader is killed meanwhile; here it can be seen which call it is."""
    mounted = lab.mount()
    put(mounted.path / "file", noisy(1 << 20, 1))
    pid = mounted.daemon_pid()

    def calls() -> dict[int, str]:
        """The system call that each thread with /dev/fuse as its first argument waits in (proc_pid_syscall(5))."""
        devices, found = set(), {}
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                if str(entry.readlink()) == "/dev/fuse":
                    devices.add(int(entry.name))
        for task in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(OSError):  # it has ended meanwhile
                fields = (task / "syscall").read_text().split()  # or "running", or "-1" and two registers
                if len(fields) > 3 and int(fields[1], 16) in devices:
                    found[int(task.name)] = fields[0]
        return found

    seen: list[str] = []

    def waits() -> bool:
        seen[:] = calls().values()
        return len(seen) == 1

    until(waits, "one thread waits for requests, and nobody else does")
    assert seen == [str(SPLICE_NUMBERS[os.uname().machine])]
    assert mounted.path.joinpath("file").stat().st_size == 1 << 20


LARGER_THAN_THE_PIPE = """
import blockstore.daemon.fuse.device as device
device.PIPE_BYTES = 1 << 20
device.Device.maximum_write_bytes = property(lambda self: 1 << 20)
"""
"""What an older version, or a daemon with more privileges, has agreed upon with the kernel."""


@pytest.mark.mount
@pytest.mark.logs("may not have a pipe that is large enough for this mount")
def test_a_mount_whose_writes_do_not_fit_into_the_pipe_is_served_and_warned_of(lab: Lab) -> None:
    (lab.path / "sitecustomize.py").write_text(LARGER_THAN_THE_PIPE)
    mounted = Mounted(lab.mountpoint(), lab.path / "mnt.state")
    command = ["mount", str(mounted.path), "--state", str(mounted.state), "--pool-limit", "64M"]
    assert blockstore(*command, PYTHONPATH=str(lab.path)).returncode == 0
    put(mounted.path / "file", noisy(4 << 20, 1))
    assert cold(mounted.path / "file") == noisy(4 << 20, 1)
    mounted.kill_daemon()
    assert cold(mounted.path / "file") == noisy(4 << 20, 1)
    assert mounted.log().count("can be lost; unmount and mount again") == 2, "each daemon says so, once"


def test_spare_pipes_are_as_large_as_the_first_and_take_few_of_few_descriptors() -> None:
    assert [spare_pipes(limit) for limit in (0, 31, 64, 200, 1024, 10**6)] == [0, 0, 2, 6, 16, 16]
    descriptor = os.open(os.devnull, os.O_RDONLY)
    device, before = Device(descriptor), len(os.listdir("/proc/self/fd"))
    pipes = device.spare_pipes()
    assert pipes and device.spare_pipes() == pipes
    assert all(fcntl.fcntl(into, fcntl.F_GETPIPE_SZ) == device.pipe_bytes for _, into in pipes)
    device.close()
    assert len(os.listdir("/proc/self/fd")) == before - 2
    os.close(descriptor)


ABORT_ERROR = 1 << 21
"""FUSE_ABORT_ERROR, in the flags of INIT: readers are told ECONNABORTED of a connection that was aborted."""

MNT_DETACH = 2


@contextlib.contextmanager
def fuse_mount(mountpoint: Path, flags: int) -> Iterator[int]:
    """Gives the descriptor of a mount that has answered INIT with these flags, and nothing since (fuse(4))."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={descriptor},rootmode=40000,user_id=0,group_id=0".encode()
    assert libc.mount(b"test", bytes(mountpoint), b"fuse", 0, options) == 0, os.strerror(ctypes.get_errno())
    try:
        _, opcode, unique, *_ = abi.IN_HEADER.unpack_from(os.read(descriptor, abi.MAXIMUM_REQUEST_BYTES))
        assert opcode == abi.INIT
        answer = abi.INIT_OUT.pack(7, 31, 0, flags, 12, 9, abi.PAGE_BYTES, 1, 1).ljust(64, b"\0")
        os.write(descriptor, abi.OUT_HEADER.pack(abi.OUT_HEADER.size + len(answer), 0, unique) + answer)
        yield descriptor
    finally:
        libc.umount2(bytes(mountpoint), MNT_DETACH)
        os.close(descriptor)


@pytest.mark.mount
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount without fusermount3")
@pytest.mark.parametrize("flags", [0, ABORT_ERROR])
def test_a_lane_ends_quietly_when_the_connection_is_aborted(lab: Lab, flags: int) -> None:
    """By ENODEV or ECONNABORTED; without FUSE_ABORT_ERROR the latter comes only to a reader that has found a request
    and not taken it yet (fs/fuse/dev.c)."""
    with fuse_mount(lab.mountpoint(), flags) as descriptor:
        store, device = Store(MemoryHome(), 64 << 20), Device(descriptor)
        requests, results = Requests(abi.MAXIMUM_REQUEST_BYTES, device.spare_pipes()), list[bool | OSError]()
        lane = store.lane(descriptor, device.pipe, device.pipe_bytes, abi.MAXIMUM_REQUEST_BYTES, requests)

        def serve() -> None:
            try:
                results.append(lane.serve())
            except OSError as error:
                results.append(error)

        thread = threading.Thread(target=serve)
        thread.start()
        abort_below(lab.path)
        thread.join(60)
        assert not thread.is_alive() and results == [True]
        requests.close()
        device.close()
        store.close()
