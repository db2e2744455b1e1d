"""Writing back a VM's dirty pages before the kernel does: a little at a time, so that the VM does not feel it.

A store into a page that is being written back waits for what was sent with it (fs/fuse/file.c, fuse_page_mkwrite), and
the encoders have little weight beside a VM that works (daemon/lane/encoder_threads.py): 4 MiB take 15 ms on an idle
machine, and many times that on a busy one. So a little is sent at a time, and only for a part of the time.
"""

from __future__ import annotations

import os
import time
from typing import Final

from blockstore.store import sync_range
from blockstore.vm import resident

PIECE_BYTES: Final = 4 << 20
"""Sent and waited for at once. With an eighth of it two guests on a busy machine waited twice as long for each byte
that was written, and with a 32nd no less: there a small request waits for a processor as long as a large one, and
there are more of them."""

ROUND_S: Final = 20.0
"""In this time all of a file is gone through once: the kernel's flusher takes pages that are dirty for 30 s
(vm.dirty_expire_centisecs), and so finds few. What could not be done in time is done when there is time."""

IDLE_TIMES: Final = 5
"""So many times as long may be written back of a VM that does not work, and waits for nothing."""

PIECE_S: Final = 0.5
"""How long a piece is waited for: longer when the store is behind, and then more must not be sent."""

_FIRST_WAIT_S: Final = 0.00025
_LONGEST_WAIT_S: Final = 0.004
"""From one look whether a piece is written to the next, each twice as long."""


class WriteBack:
    """Of one file. `descriptor` stays the caller's."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._hand = 0
        self._due_bytes = 0

    def go_on(self, elapsed_s: float, allowed_s: float) -> None:
        """Looks at as much of the file as is due after this time, and writes back what of it is dirty, for no longer
        than `allowed_s` but for a piece that has begun. Raises OSError.

        Does nothing where the kernel does not say what is dirty: to count pages by mincore(2) takes a mapping, and the
        end of one has all dirty pages of the file written back (fuse_vma_close in fs/fuse/file.c)."""
        size_bytes = os.fstat(self._descriptor).st_size
        if not size_bytes or not resident.tells_dirty(self._descriptor):
            return
        deadline = time.monotonic() + allowed_s
        self._due_bytes += int(size_bytes * min(elapsed_s / ROUND_S, 1.0)) + PIECE_BYTES
        self._due_bytes = min(self._due_bytes, size_bytes + PIECE_BYTES)
        while self._due_bytes > 0 and time.monotonic() <= deadline:
            start, self._hand = self._hand, self._hand + PIECE_BYTES
            if self._hand >= size_bytes:
                self._hand = 0
            if not self._write(start):  # its turn comes again: others may be quicker
                return
            self._due_bytes -= PIECE_BYTES

    def _write(self, start: int) -> bool:
        """One piece; False if it was not done in time."""
        if not resident.of_descriptor(self._descriptor, start, PIECE_BYTES).dirty:
            return True
        sync_range.begin(self._descriptor, start, PIECE_BYTES)
        deadline, wait_s = time.monotonic() + PIECE_S, _FIRST_WAIT_S
        while resident.of_descriptor(self._descriptor, start, PIECE_BYTES).written_back:
            if time.monotonic() > deadline:
                return False
            time.sleep(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
        return True
