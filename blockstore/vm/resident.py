"""What of a file is resident: its pages in the kernel's page cache, counted with cachestat(2).

Called from the command line's process, never from the daemon: it opens files of the mount.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from pathlib import Path
from typing import Final, NamedTuple

_SYS_CACHESTAT: Final = 451  # Linux 6.5, the same number on all machines

_libc: Final = ctypes.CDLL(None, use_errno=True)


class _Range(ctypes.Structure):
    """struct cachestat_range (linux/mman.h); a length of 0 means up to the end."""

    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _Figures(ctypes.Structure):
    """struct cachestat (linux/mman.h)."""

    _fields_ = tuple((name, ctypes.c_uint64) for name in ("cache", "dirty", "writeback", "evicted", "recently_evicted"))


class Residency(NamedTuple):
    """In bytes; `dirty` does not include what is being written back."""

    resident: int
    dirty: int
    written_back: int


def of_file(path: Path) -> Residency:
    """How much of the file is in the page cache. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    try:
        return of_descriptor(descriptor)
    finally:
        os.close(descriptor)


def of_descriptor(descriptor: int, offset: int = 0, length: int = 0) -> Residency:
    """The same for an open file, or a range of it; a length of 0 means up to the end."""
    figures = _cachestat(descriptor, offset, length)
    if figures is None:
        return Residency(_in_core_bytes(descriptor, offset, length), 0, 0)
    return Residency(*(pages * mmap.PAGESIZE for pages in (figures.cache, figures.dirty, figures.writeback)))


def tells_dirty(descriptor: int) -> bool:
    """Returns whether this kernel says which pages of a file are dirty; if not, none seems to be. Raises OSError."""
    return _cachestat(descriptor, 0, mmap.PAGESIZE) is not None


def pages_of(descriptor: int, offset: int = 0, length: int = 0) -> bytes:
    """A byte for each page of the file, or a range of it: 1 if it is in the page cache. Raises OSError."""
    return _in_core(descriptor, offset, length)


def _cachestat(descriptor: int, offset: int, length: int) -> _Figures | None:
    """cachestat(2), Linux 6.5; None from an earlier kernel. Raises OSError."""
    figures = _Figures()
    if _libc.syscall(_SYS_CACHESTAT, descriptor, ctypes.byref(_Range(offset, length)), ctypes.byref(figures), 0) == 0:
        return figures
    code = ctypes.get_errno()
    if code != errno.ENOSYS:
        raise OSError(code, os.strerror(code))
    return None


def _in_core_bytes(descriptor: int, offset: int, length: int) -> int:
    """For kernels without cachestat(2); a page that is dirty cannot be told there."""
    return sum(_in_core(descriptor, offset, length)) * mmap.PAGESIZE


def _in_core(descriptor: int, offset: int, length: int) -> bytes:
    """mincore(2)"""
    left = os.fstat(descriptor).st_size - offset
    size = min(length, left) if length else left
    if size <= 0:
        return b""
    protection = mmap.PROT_READ | mmap.PROT_WRITE
    with mmap.mmap(descriptor, size, mmap.MAP_PRIVATE, protection, offset=offset) as mapping:
        pages = -(-size // mmap.PAGESIZE)
        vector = (ctypes.c_ubyte * pages)()
        start = ctypes.addressof(ctypes.c_char.from_buffer(mapping))
        if _libc.mincore(ctypes.c_void_p(start), ctypes.c_size_t(size), vector):
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return bytes(vector).translate(_LOWEST_BIT)


_LOWEST_BIT: Final = bytes(value & 1 for value in range(256))
"""The others have no meaning yet."""
