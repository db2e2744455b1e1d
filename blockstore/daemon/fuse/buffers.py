"""Memory for what goes to /dev/fuse and pyfuse3: as large as can be, and none but what is used of it."""

from __future__ import annotations

import mmap


def untouched(size_bytes: int) -> mmap.mmap:
    """Zeros that take memory page by page as they are written, and give all of it back at the end. A bytearray is
    written when it is made."""
    return mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
