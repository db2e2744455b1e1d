"""What the store is compared with: each peer keeps the same file, and is one function here and one line in PEERS.

All FUSE mounts get what the store's own has: the kernel's throttle of dirty pages, which they start with, is lifted
(docs/decisions.md, "Dirty throttling"). A peer that cannot be had raises BenchError with the reason; what was begun is
undone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from benchlab import processes
from benchlab.errors import BenchError
from benchlab.mounts import FloorMount, Mount, ServedMount, StoreMount, Workspace, fuse_connections
from benchlab.peers import packages
from benchlab.peers.zram import Zram

LANE: Final = "lane"
NO_PATCH: Final = "lane, no patches"
ZRAM: Final = "zram lz4"
NBDFUSE: Final = "nbdfuse zstd"
QSD: Final = "qsd qcow2"
TMPFS: Final = "tmpfs"
FLOOR: Final = "floor"

_COMMAND_S: Final = 60.0
_SOCKET_S: Final = 10.0
_UNTHROTTLED: Final = {"strict_limit": "0", "max_ratio": "100"}
"""As blockstore's mount sets them."""


@dataclass(frozen=True)
class Place:
    """Where a peer is to be: `size_bytes` is that of its file; with a `core` its processes are pinned to it."""

    workspace: Workspace
    size_bytes: int
    core: int | None = None


@dataclass(frozen=True)
class Peer:
    """One that is up. `clearing` empties it, so that what is written next is written for the first time."""

    name: str
    path: Path
    """The file, or the block device."""
    pids: tuple[int, ...]
    """Its processes; none where the kernel does the work."""
    abort: processes.Abort
    clearing: tuple[str | Path, ...]

    def clear(self) -> None:
        """Empty it. Raises BenchError."""
        processes.run(self.clearing, self.abort, _COMMAND_S)


Opener = Callable[[Place], AbstractContextManager[Peer]]


@contextmanager
def _store(place: Place, name: str, *options: str) -> Iterator[Peer]:
    folder = name.replace(", ", "-").replace(" ", "-")
    with StoreMount(place.workspace, folder, *options, core=place.core) as mount:
        yield _on_file(name, mount.path / "vm", (mount.pid,), mount.abort)


def _lane(place: Place) -> AbstractContextManager[Peer]:
    return _store(place, LANE)


def _no_patch(place: Place) -> AbstractContextManager[Peer]:
    return _store(place, NO_PATCH, "--no-patch")


@contextmanager
def _zram(place: Place) -> Iterator[Peer]:
    packages.need("blkdiscard", "util-linux")
    with Zram(place.size_bytes) as device:
        clearing = ("blkdiscard", "--force", device.path)
        yield Peer(ZRAM, device.path, (), processes.nothing_to_abort, clearing)


@contextmanager
def _nbdfuse(place: Place) -> Iterator[Peer]:
    """nbdkit's memory plugin, which compresses, behind libnbd's FUSE server: two processes."""
    packages.need("nbdkit", "nbdkit")
    packages.need("nbdfuse", "libnbd-bin")
    socket, folder = place.workspace.states / "nbd.socket", place.workspace.mounts / "nbdfuse"
    plugin = ("memory", str(place.size_bytes), "allocator=zstd")
    server = processes.Process(
        ["nbdkit", "--foreground", "--unix", socket, *plugin], processes.nothing_to_abort, place.core
    )
    try:
        _wait_for(socket, server)
        with ServedMount(folder, ["nbdfuse", folder / "vm", "--unix", socket], place.core) as mount:
            _unthrottle(mount)
            yield _on_disk(NBDFUSE, folder / "vm", (server.pid, mount.pid), mount.abort, place)
    finally:
        server.end()
        socket.unlink(missing_ok=True)


@contextmanager
def _qsd(place: Place) -> Iterator[Peer]:
    """QEMU's storage daemon, which mounts over a file; the image is on tmpfs and does not compress.

    It gets one request at a time from the page cache: the one of Debian 12 (QEMU 7.2) writes wrong bytes when it
    reads the next request while a write is under way, which the verification here found.
    """
    packages.need("qemu-storage-daemon", "qemu-system-common")
    packages.need("qemu-img", "qemu-utils")
    image, path = place.workspace.states / "qsd.qcow2", place.workspace.mounts / "qsd"
    create: list[str | Path] = ["qemu-img", "create", "-q", "-f", "qcow2", image, str(place.size_bytes)]
    processes.run(create, processes.nothing_to_abort, _COMMAND_S)
    command = [
        "qemu-storage-daemon",
        *("--blockdev", f"driver=file,node-name=file,filename={image}"),
        *("--blockdev", "driver=qcow2,node-name=disk,file=file,discard=unmap"),
        *("--export", f"type=fuse,id=export,node-name=disk,mountpoint={path},writable=on"),
    ]
    try:
        with ServedMount(path, command, place.core, on_file=True) as mount:
            _unthrottle(mount)
            _one_at_a_time(mount)
            yield _on_disk(QSD, path, (mount.pid,), mount.abort, place)
    finally:
        image.unlink(missing_ok=True)


@contextmanager
def _tmpfs(place: Place) -> Iterator[Peer]:
    path = place.workspace.states / "tmpfs"
    try:
        yield _on_file(TMPFS, path, (), processes.nothing_to_abort)
    finally:
        path.unlink(missing_ok=True)


@contextmanager
def _floor(place: Place) -> Iterator[Peer]:
    """Answers from a constant: for what only reads, and does not look at it."""
    with FloorMount(place.workspace, place.size_bytes, place.core) as mount:
        yield Peer(FLOOR, mount.path / "file", (mount.pid,), mount.abort, ("true",))


PEERS: Final[dict[str, Opener]] = {
    LANE: _lane,
    NO_PATCH: _no_patch,
    ZRAM: _zram,
    NBDFUSE: _nbdfuse,
    QSD: _qsd,
    TMPFS: _tmpfs,
    FLOOR: _floor,
}


def _on_file(name: str, path: Path, pids: tuple[int, ...], abort: processes.Abort) -> Peer:
    """Whoever writes gives the file its size."""
    return Peer(name, path, pids, abort, ("truncate", "--size=0", path))


def _on_disk(name: str, path: Path, pids: tuple[int, ...], abort: processes.Abort, place: Place) -> Peer:
    """Its size is fixed."""
    punch = ("fallocate", "--punch-hole", "--offset", "0", "--length", str(place.size_bytes), path)
    return Peer(name, path, pids, abort, punch)


def _wait_for(socket: Path, server: processes.Process) -> None:
    end_s = time.monotonic() + _SOCKET_S
    while not socket.exists():
        if not server.running:
            server.output(_SOCKET_S)
        if not server.running or time.monotonic() > end_s:
            raise BenchError("nbdkit did not start")
        time.sleep(0.02)


def _one_at_a_time(mount: Mount) -> None:
    """The kernel sends what the page cache reads ahead and writes back one by one."""
    with fuse_connections() as folder:
        try:
            (folder / mount.device.partition(":")[2] / "max_background").write_text("1")
        except OSError as error:
            raise BenchError(f"the number of requests under way cannot be limited: {error.strerror}") from error


def _unthrottle(mount: Mount) -> None:
    folder = Path("/sys/class/bdi") / mount.device
    try:
        for name, value in _UNTHROTTLED.items():
            (folder / name).write_text(value)
    except OSError as error:
        raise BenchError(f"the kernel's throttle of dirty pages cannot be lifted: {error.strerror}") from error
