"""Pages that the kernel leaves where they are, for tests that count them.

It may reclaim a clean page at any moment, without any want of memory: DAMON's schemes do (Linux,
Documentation/admin-guide/mm/damon), by physical regions, so that also a page goes that was read a moment ago.
"""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
from collections.abc import Iterator
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def kept(path: Path, offset: int = 0, size_bytes: int = 0) -> Iterator[None]:
    """Has this part of the file resident, up to its end by default, and locked against reclaim (mlock(2)).

    What invalidates pages or cuts them off drops them all the same.
    """
    with path.open("r+b") as file:  # shared, or the lock would be that of copies
        size_bytes = size_bytes or os.fstat(file.fileno()).st_size - offset
        mapping = mmap.mmap(file.fileno(), offset + size_bytes)
    with mapping:
        first_byte = ctypes.c_char.from_buffer(mapping)
        try:
            address = ctypes.c_void_p(ctypes.addressof(first_byte) + offset)
            if _libc.mlock(address, ctypes.c_size_t(size_bytes)):
                raise OSError(ctypes.get_errno(), f"{path} cannot be locked in memory")
            yield
        finally:
            del first_byte  # or the mapping could not be closed
