"""The memory of a snapshot as windows of up to 1 MiB, of which only those come that hold anything but zeros."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from typing import Any, Final, NamedTuple

import numpy as np

from blockstore.store.state.geometry import BLOCK_BYTES

WINDOW_BYTES: Final = 1 << 20


class Window(NamedTuple):
    """At `offset`: all its blocks, a row of words each, and which of them are not zero."""

    offset: int
    blocks: np.ndarray[Any, np.dtype[np.uint64]]
    kept: np.ndarray[Any, np.dtype[np.bool_]]


def windows(memory: int, end: int, report: Callable[[int, int], None]) -> Iterator[Window]:
    """Of the first `end` bytes of a file. What was read does not stay in the page cache; holes are passed over, and
    `report` is told how far it is. Raises OSError."""
    position = 0
    while (position := _next_data(memory, position, end)) < end:
        data = os.pread(memory, min(WINDOW_BYTES, end - position), position)
        blocks = np.frombuffer(data, dtype=np.uint64).reshape(-1, BLOCK_BYTES // 8)
        kept = np.asarray(blocks.any(axis=1))
        if kept.any():
            yield Window(position, blocks, kept)
        os.posix_fadvise(memory, position, len(data), os.POSIX_FADV_DONTNEED)
        position += len(data)
        report(position, end)


def _next_data(memory: int, position: int, end: int) -> int:
    """The window that the next data is in; holes are passed over."""
    if position >= end:
        return end
    try:
        found = os.lseek(memory, position, os.SEEK_DATA)
    except OSError as error:
        if error.errno == errno.ENXIO:
            return end
        raise
    return min(max(found & -WINDOW_BYTES, position), end)
