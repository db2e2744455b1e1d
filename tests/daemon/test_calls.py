"""What the calls of a mount take, and what they refuse, as docs/files.md says: the system calls themselves."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import socket
import stat
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from blockstore.store.volume import MAXIMUM_SIZE_BYTES
from tests.daemon.lab import PROJECT, Lab

AT_FDCWD, RENAME_WHITEOUT = -100, 4
COLLAPSE_RANGE, INSERT_RANGE, UNSHARE_RANGE = 8, 32, 64
FICLONE, FICLONERANGE, FIDEDUPERANGE = 0x4004_9409, 0x4020_940D, 0xC018_9436
GETFLAGS, SETFLAGS, FSGETXATTR, FIEMAP = 0x8008_6601, 0x4008_6602, 0x801C_581F, 0xC020_660B

ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, 6, name)
    for tag, name in ((1, 0xFFFF_FFFF), (2, 1000), (4, 0xFFFF_FFFF), (16, 0xFFFF_FFFF), (32, 0xFFFF_FFFF))
)
"""For the owner, user 1000, the group, the mask, and others (xattr version 2)."""

_libc = ctypes.CDLL(None, use_errno=True)


def checked(result: int) -> None:
    if result < 0:
        raise OSError(ctypes.get_errno(), "")


def bind(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{path}.socket")


def node(kind: int) -> Callable[[Path, int], object]:
    return lambda path, _: os.mknod(f"{path}.node", kind | 0o600, os.makedev(0, 0))


def ioctl(request: int, argument: Callable[[int], bytes | int]) -> Callable[[Path, int], object]:
    return lambda _, descriptor: fcntl.ioctl(descriptor, request, argument(descriptor))


def fallocate(mode: int, at: int = 0) -> Callable[[Path, int], object]:
    offset, length = ctypes.c_int64(at), ctypes.c_int64(4096)
    return lambda _, descriptor: checked(_libc.fallocate64(descriptor, mode, offset, length))


CALLS: dict[str, Callable[[Path, int], object]] = {
    "link": lambda path, _: os.link(path, f"{path}.link"),
    "mknod(S_IFIFO)": node(stat.S_IFIFO),
    "mknod(S_IFSOCK)": node(stat.S_IFSOCK),
    "mknod(S_IFCHR)": node(stat.S_IFCHR),
    "mknod(S_IFBLK)": node(stat.S_IFBLK),
    "bind": lambda path, _: bind(path),
    "setxattr": lambda path, _: os.setxattr(path, "user.x", b"value"),
    "getxattr": lambda path, _: os.getxattr(path, "user.x"),
    "listxattr": lambda path, _: os.listxattr(path),
    "removexattr": lambda path, _: os.removexattr(path, "user.x"),
    "setxattr(system.posix_acl_access)": lambda path, _: os.setxattr(path, "system.posix_acl_access", ACL),
    "setxattr(system.posix_acl_default)": lambda path, _: os.setxattr(path.parent, "system.posix_acl_default", ACL),
    "ioctl(FICLONE)": ioctl(FICLONE, lambda descriptor: descriptor),
    "ioctl(FICLONERANGE)": ioctl(FICLONERANGE, lambda descriptor: struct.pack("<qQQQ", descriptor, 0, 4096, 4096)),
    "ioctl(FIDEDUPERANGE)": ioctl(
        FIDEDUPERANGE, lambda descriptor: struct.pack("<QQHHIqQQiI", 0, 4096, 1, 0, 0, descriptor, 4096, 0, 0, 0)
    ),
    "open(O_TMPFILE)": lambda path, _: os.open(path.parent, os.O_TMPFILE | os.O_RDWR),
    "fallocate(COLLAPSE_RANGE)": fallocate(COLLAPSE_RANGE),
    "fallocate(INSERT_RANGE)": fallocate(INSERT_RANGE),
    "fallocate(UNSHARE_RANGE)": fallocate(UNSHARE_RANGE),
    "renameat2(RENAME_WHITEOUT)": lambda path, _: renaming(RENAME_WHITEOUT)(path, 0),
    "ioctl(FS_IOC_GETFLAGS)": ioctl(GETFLAGS, lambda _: bytes(8)),
    "ioctl(FS_IOC_SETFLAGS)": ioctl(SETFLAGS, lambda _: bytes(8)),
    "ioctl(FS_IOC_FSGETXATTR)": ioctl(FSGETXATTR, lambda _: bytes(28)),
    "ioctl(FS_IOC_FIEMAP)": ioctl(FIEMAP, lambda _: struct.pack("<QQIIII", 0, 1 << 20, 0, 0, 0, 0)),
    "ftruncate": lambda _, descriptor: os.ftruncate(descriptor, MAXIMUM_SIZE_BYTES + 1),
}


def opening(flags: int) -> Callable[[Path, int], object]:
    return lambda path, _: os.close(os.open(path, flags))


def renaming(flags: int) -> Callable[[Path, int], object]:
    return lambda path, _: checked(
        _libc.renameat2(AT_FDCWD, os.fsencode(path), AT_FDCWD, os.fsencode(f"{path}.moved"), flags)
    )


def copying(flags: int) -> Callable[[Path, int], object]:
    def call(_: Path, descriptor: int) -> None:
        source, target, size = ctypes.c_int64(0), ctypes.c_int64(4096), ctypes.c_size_t(4096)
        places = ctypes.byref(source), ctypes.byref(target)
        checked(_libc.copy_file_range(descriptor, places[0], descriptor, places[1], size, flags))

    return call


FLAGS: dict[str, tuple[Callable[[Path, int], object], int]] = {
    **{
        f"open({name})": (opening(os.O_RDWR | getattr(os, name)), 0)
        for name in ("O_APPEND", "O_DIRECT", "O_SYNC", "O_DSYNC", "O_NOFOLLOW", "O_NOATIME", "O_NONBLOCK", "O_PATH")
    },
    "open(access mode 3)": (opening(3), 0),
    "open(O_DIRECTORY)": (opening(os.O_DIRECTORY), errno.ENOTDIR),
    "open(O_CREAT | O_EXCL)": (opening(os.O_CREAT | os.O_EXCL), errno.EEXIST),
    **{f"fallocate({mode})": (fallocate(mode, 4096), 0) for mode in (0, 1, 3, 16, 17)},
    **{f"fallocate({mode})": (fallocate(mode, 4096), errno.EOPNOTSUPP) for mode in (2, 18, 19, 24, 128, 256)},
    "fallocate(0) behind the end": (fallocate(0, 8192), 0),
    "fallocate(17) behind the end": (fallocate(17, 1 << 20), 0),
    "lseek(5)": (lambda _, descriptor: os.lseek(descriptor, 0, 5), errno.EINVAL),
    "lseek(5) behind the end": (lambda _, descriptor: os.lseek(descriptor, 1 << 20, 5), errno.EINVAL),
    "lseek(SEEK_DATA) behind the end": (lambda _, descriptor: os.lseek(descriptor, 1 << 20, os.SEEK_DATA), errno.ENXIO),
    "copy_file_range(0)": (copying(0), 0),
    "copy_file_range(1)": (copying(1), errno.EINVAL),
    **{f"renameat2({flags})": (renaming(flags), errno.EINVAL) for flags in (3, 5, 6, 8, 1 << 30)},
    "access(8)": (lambda path, _: checked(_libc.access(os.fsencode(path), 8)), errno.EINVAL),
}
"""Beside each call, the errno with which it has to fail; 0 if it has to work."""


def documented() -> dict[str, int]:
    """The errno of each call in the table of docs/files.md."""
    page = (PROJECT / "docs/files.md").read_text()
    section = page.split("## What is not there")[1].split("\n## ")[0]
    found = {}
    for row in section.splitlines():
        cells = row.split("|")
        for call in re.findall(r"`([^`]+)`", cells[2]) if row.startswith("| ") and len(cells) == 5 else ():
            found[call] = int(getattr(errno, cells[3].strip()))
    return found


def errors_of(calls: Mapping[str, Callable[[Path, int], object]], path: Path, descriptor: int) -> dict[str, int]:
    """The errno of each call; 0 if it works."""
    found = {}
    for name, call in calls.items():
        try:
            call(path, descriptor)
            found[name] = 0
        except OSError as error:
            found[name] = error.errno or -1
    return found


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    """The mount of all tests of this file."""
    workspace = Lab()
    try:
        yield workspace.mount().path
    finally:
        workspace.close()


@pytest.mark.mount
def test_flags_are_obeyed_or_refused(folder: Path) -> None:
    path = folder / "flags"
    path.write_bytes(bytes(8192))
    descriptor = os.open(path, os.O_RDWR)
    calls = {name: call for name, (call, _) in FLAGS.items()}
    assert errors_of(calls, path, descriptor) == {name: code for name, (_, code) in FLAGS.items()}
    assert os.fstat(descriptor).st_size == 12288, "one call of fallocate grows the file"
    os.close(descriptor)
    path.unlink()


@pytest.mark.mount
def test_what_is_not_there_fails_as_the_documentation_says(folder: Path) -> None:
    path = folder / "file"
    path.write_bytes(bytes(8192))
    descriptor = os.open(path, os.O_RDWR)
    found = errors_of(CALLS, path, descriptor)
    before = path.stat()
    os.pread(descriptor, 4096, 0)
    os.close(descriptor)
    assert found == documented()
    assert os.listdir(path.parent) == ["file"] and path.stat().st_size == 8192
    assert path.stat().st_atime_ns == before.st_atime_ns
    path.unlink()
