"""Writes of write(2) that wait while as many jobs wait for room as may be tried again and again (jobs.py).

They wait in the order in which they came, with a copy of their data, and cost nothing but that memory. The kernel sends
one such request for each thread that writes, so that their number is that of the threads. Of one thread. Pages that
are written back are never parked: the kernel sends only a few of these at once (relay.py, MAXIMUM_BACKGROUND).
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

log = logging.getLogger(__name__)

PARKED_LIMIT_BYTES: Final = 256 << 20
"""Data that may wait, as memory of the daemon: the largest writes of 256 threads, or 65,536 blocks. Beyond it a write
fails with ENOSPC, because the daemon must not take memory without a limit while there is none to be had."""


@dataclass(frozen=True, slots=True)
class ParkedWrite:
    """A WRITE request: its number, the file, the offset in bytes, and what is to be written there."""

    unique: int
    inode: int
    offset: int
    data: bytes


class ParkedWrites:
    """The queue; `refused` counts the writes that found it full."""

    def __init__(self, limit_bytes: int = PARKED_LIMIT_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._writes: OrderedDict[int, ParkedWrite] = OrderedDict()
        self.size_bytes = 0
        self.refused = 0

    @property
    def count(self) -> int:
        """Returns how many wait."""
        return len(self._writes)

    def park(self, write: ParkedWrite) -> bool:
        """Lets one more wait; returns False when too much data waits already."""
        if self.size_bytes + len(write.data) > self._limit_bytes:
            if not self.refused:
                log.error(
                    "writes of %d MiB wait for room, which is as much as may: further ones fail with ENOSPC",
                    self._limit_bytes >> 20,
                )
            self.refused += 1
            return False
        self._writes[write.unique] = write
        self.size_bytes += len(write.data)
        return True

    def take(self) -> ParkedWrite:
        """Returns the one that has waited longest, which waits no more. Raises KeyError when there is none."""
        _, write = self._writes.popitem(last=False)
        self.size_bytes -= len(write.data)
        return write

    def take_those(self, inode: int, written: range) -> list[ParkedWrite]:
        """Returns those that write to any of these bytes of the file; they wait no more."""
        found = [
            write
            for write in self._writes.values()
            if write.inode == inode and write.offset < written.stop and written.start < write.offset + len(write.data)
        ]
        for write in found:
            self.give_up(write.unique)
        return found

    def give_up(self, unique: int) -> bool:
        """Forgets the write with this number, whose process has got a signal; returns False when it is not here."""
        write = self._writes.pop(unique, None)
        if write is None:
            return False
        self.size_bytes -= len(write.data)
        return True
