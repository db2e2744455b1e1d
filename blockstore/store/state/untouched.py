"""Zeros that take memory as they are written, and go back to the host with the last view of them."""

from __future__ import annotations

import mmap
from contextlib import suppress


def untouched(size_bytes: int) -> mmap.mmap:
    """Returns so many zero bytes of this process's own, a page at least, which take memory page by page."""
    return mmap.mmap(-1, max(size_bytes, mmap.PAGESIZE), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


def numbers_to_fill(count: int) -> memoryview:
    """Returns so many zeros (u32) that will all be written, soon and by several threads. They take memory in huge pages
    where there are any: a start would wait for the kernel longer than for its own work with small ones."""
    memory = untouched(4 * count)
    with suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_HUGEPAGE)
    return memoryview(memory).cast("I")[:count]
