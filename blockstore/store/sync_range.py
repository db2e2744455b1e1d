"""Writing back a part of a file: sync_file_range(2), which Python does not have."""

from __future__ import annotations

import ctypes
import os
from typing import Final

_WAIT_BEFORE: Final = 1
_WRITE: Final = 2
_WAIT_AFTER: Final = 4

_BEYOND: Final = 1 << 62
"""An offset in bytes at which no file has a page."""


def begin(fd: int, start: int, length: int) -> None:
    """Start to write what is dirty of it, and do not wait. Raises OSError."""
    _sync(fd, start, length, _WRITE)


def complete(fd: int, start: int, length: int) -> None:
    """All of it is written when this returns, but for what the file system keeps about it. Raises OSError."""
    _sync(fd, start, length, _WAIT_BEFORE | _WRITE | _WAIT_AFTER)


def check(fd: int) -> None:
    """Raise the OSError of a write-back that failed and that this open file has not been told of yet. Never waits: it
    asks for the write-back of a page beyond the end of any file (fs/sync.c, file_check_and_advance_wb_err)."""
    _sync(fd, _BEYOND, 1, _WAIT_BEFORE)


def _sync(fd: int, start: int, length: int, flags: int) -> None:
    if _sync_file_range(fd, start, length, flags):
        code = ctypes.get_errno()
        raise OSError(code, f"write-back: {os.strerror(code)}")


_sync_file_range = ctypes.CDLL(None, use_errno=True).sync_file_range
_sync_file_range.argtypes = (ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_uint)
