"""Open files of a mount: opened by us, or borrowed from the processes that have them open.

What the kernel keeps in each open file (its read-ahead, which write-back errors it has seen) is reached through a
borrowed one: pidfd_getfd(2), where ptrace(2) would be allowed.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from blockstore.daemon.mounts import Mapping, Mount

_SYS_PIDFD_GETFD: Final = 438  # Linux 5.6, the same number on all machines

_libc: Final = ctypes.CDLL(None, use_errno=True)

_FLAGS: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK


def open_volume(mount: Mount, name: str, volume: int) -> int:
    """Opens the file with this number, and no other that may have its name, or may lie over the mount. Raises
    OSError."""
    descriptor = os.open(mount.path / name, _FLAGS)
    if not mount.has(os.fstat(descriptor), volume):
        os.close(descriptor)
        raise OSError(f"{name} is another file by now")
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
