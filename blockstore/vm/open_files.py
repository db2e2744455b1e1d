"""Open files of a mount: opened by us, or borrowed from the processes that have them open.

What the kernel keeps in each open file (its read-ahead, which write-back errors it has seen) is reached through a
borrowed one: pidfd_getfd(2), where ptrace(2) would be allowed.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from blockstore.daemon.host.mounts import Mapping, Mount

_SYS_PIDFD_GETFD: Final = 438  # Linux 5.6, the same number on all machines

_libc: Final = ctypes.CDLL(None, use_errno=True)

NOT_OURS: Final = "without --allow-other only the user who made the mount may open its files"
"""What EACCES means for a file of a mount, more often than not."""

_FILE_FLAGS: Final = os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
_FOLDER_FLAGS: Final = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW


@contextlib.contextmanager
def folder_of(mount: Mount, name: str) -> Iterator[tuple[int, str]]:
    """The folder of the mount's file `name` (vm1, blue/vm1) as a descriptor, and the file's name in that folder.

    One folder after the other is opened by the descriptor of the one above it: a path may be longer than PATH_MAX, and
    no symbolic link that takes a folder's place, and no "..", leads out of the mount. Raises OSError.
    """
    *folders, last = name.split("/")
    if ".." in folders:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
    descriptor = os.open(mount.path, _FOLDER_FLAGS)
    try:
        for each in folders:
            inner = os.open(each, _FOLDER_FLAGS, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        yield descriptor, last
    finally:
        os.close(descriptor)


def open_volume(mount: Mount, name: str, volume: int | None = None, flags: int = os.O_RDONLY) -> int:
    """Opens the mount's file `name`, and no file that lies over the mount; with `volume` only the file with this
    number, which may have lost its name to another one. Raises OSError."""
    with folder_of(mount, name) as (folder, last):
        descriptor = os.open(last, flags | _FILE_FLAGS, dir_fd=folder)
    found = os.fstat(descriptor)
    if not mount.has(found, found.st_ino if volume is None else volume):
        os.close(descriptor)
        raise OSError(errno.ESTALE, f"{name} is another file by now")
    return descriptor


def open_mapped(mapping: Mapping) -> int:
    """Opens the file of a mapping, which need not have a name any more (proc_pid_map_files(5)). Raises OSError."""
    end = mapping.start + mapping.length
    return os.open(f"/proc/{mapping.pid}/map_files/{mapping.start:x}-{end:x}", os.O_RDONLY | os.O_CLOEXEC)


def descriptors_of(pid: int, inode: int) -> Iterator[int]:
    """Yields the process' descriptors of files with this inode number, on whatever file system (proc_pid_fdinfo(5)).
    Raises OSError."""
    wanted = f"ino:\t{inode}\n"
    for entry in Path(f"/proc/{pid}/fdinfo").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            if wanted in entry.read_text():
                yield int(entry.name)


@contextlib.contextmanager
def borrowed(pid: int, descriptor: int) -> Iterator[int]:
    """The other process' open file, as a descriptor of ours. Raises OSError."""
    process = os.pidfd_open(pid)
    try:
        own = _libc.syscall(_SYS_PIDFD_GETFD, process, descriptor, 0)
    finally:
        os.close(process)
    if own < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"descriptor {descriptor} of process {pid}: {os.strerror(code)}")
    try:
        yield own
    finally:
        os.close(own)
