"""What the file system of a mount is not: each call that docs/files.md lists fails as it says there."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
import socket
import stat
import struct
from collections.abc import Callable
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


def fallocate(mode: int) -> Callable[[Path, int], object]:
    offset, length = ctypes.c_int64(0), ctypes.c_int64(4096)
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
    "renameat2(RENAME_WHITEOUT)": lambda path, _: checked(
        _libc.renameat2(AT_FDCWD, os.fsencode(path), AT_FDCWD, os.fsencode(f"{path}.moved"), RENAME_WHITEOUT)
    ),
    "ioctl(FS_IOC_GETFLAGS)": ioctl(GETFLAGS, lambda _: bytes(8)),
    "ioctl(FS_IOC_SETFLAGS)": ioctl(SETFLAGS, lambda _: bytes(8)),
    "ioctl(FS_IOC_FSGETXATTR)": ioctl(FSGETXATTR, lambda _: bytes(28)),
    "ioctl(FS_IOC_FIEMAP)": ioctl(FIEMAP, lambda _: struct.pack("<QQIIII", 0, 1 << 20, 0, 0, 0, 0)),
    "ftruncate": lambda _, descriptor: os.ftruncate(descriptor, MAXIMUM_SIZE_BYTES + 1),
}


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


@pytest.mark.mount
def test_each_call_fails_as_the_documentation_says(lab: Lab) -> None:
    path = lab.mount().path / "file"
    path.write_bytes(bytes(8192))
    descriptor = os.open(path, os.O_RDWR)
    found = {}
    for name, call in CALLS.items():
        try:
            call(path, descriptor)
            found[name] = 0
        except OSError as error:
            found[name] = error.errno or -1
    before = path.stat()
    os.pread(descriptor, 4096, 0)
    os.close(descriptor)
    assert found == documented()
    assert os.listdir(path.parent) == ["file"] and path.stat().st_size == 8192
    assert path.stat().st_atime_ns == before.st_atime_ns
