"""Buffers for what comes from /dev/fuse and goes there: as large as can be, and no memory but what is used of them.

Those of the lane, of 1 MiB, are kept while writes come, and not for longer.
"""

from __future__ import annotations

import mmap
from typing import Final

SPARE_BUFFERS: Final = 2
"""That are kept for the next write; a new one costs up to a tenth of what encoding its content does."""

REST_MS: Final = 1000
"""Without a request, after which a burst of writes is over. The next one pays a millisecond for new buffers: a
thousandth of the time at most."""


def untouched(size_bytes: int) -> mmap.mmap:
    """Zeros that take memory page by page as they are written, and give all of it back at the end. A bytearray is
    written when it is made."""
    return mmap.mmap(-1, size_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


class Buffers:
    """The lane's; of one thread."""

    def __init__(self, size_bytes: int) -> None:
        self._size_bytes = size_bytes
        self.spare: list[mmap.mmap] = []

    def take(self) -> mmap.mmap:
        """One to be used until it is given back. What is in it is anything."""
        if self.spare:
            return self.spare.pop()
        return untouched(self._size_bytes)

    def give_back(self, buffer: mmap.mmap) -> None:
        """Whoever still looks at it may see other bytes from now on."""
        if len(self.spare) < SPARE_BUFFERS:
            self.spare.append(buffer)

    def renew(self) -> mmap.mmap:
        """A burst is over: let all go that are kept, and take a fresh one."""
        self.spare.clear()
        return self.take()
