"""Writing back a VM's dirty pages before the kernel does: a little at a time, so that the VM does not feel it.

A store into a page that is being written back waits for all that was sent with it. The kernel's flusher sends all of
a file's old dirty pages at once and holds a VM with 256 MiB of them up for most of a second; 4 MiB take 15 ms.
"""

from __future__ import annotations

import os
import time
from typing import Final

from blockstore.store import sync_range
from blockstore.vm import resident

PIECE_BYTES: Final = 4 << 20

ROUND_S: Final = 20.0
"""In this time all of a file is gone through once: the kernel's flusher takes pages that are dirty for 30 s
(vm.dirty_expire_centisecs), and so finds few."""

PIECE_S: Final = 0.5
"""How long a piece is waited for: longer when the store is behind, and then more must not be sent."""

_WAIT_STEP_S: Final = 0.004


class WriteBack:
    """Of one file. `descriptor` stays the caller's."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._hand = 0

    def go_on(self, elapsed_s: float) -> None:
        """Look at as much of the file as is due after this time, and write back what of it is dirty. Raises OSError."""
        size_bytes = os.fstat(self._descriptor).st_size
        due_bytes = int(size_bytes * min(elapsed_s / ROUND_S, 1.0)) + PIECE_BYTES
        while due_bytes > 0 and size_bytes:
            start, self._hand = self._hand, self._hand + PIECE_BYTES
            if self._hand >= size_bytes:
                self._hand = 0
            if not self._write(start):
                return
            due_bytes -= PIECE_BYTES

    def _write(self, start: int) -> bool:
        """One piece; False if it was not done in time."""
        if not resident.of_descriptor(self._descriptor, start, PIECE_BYTES).dirty:
            return True
        sync_range.begin(self._descriptor, start, PIECE_BYTES)
        deadline = time.monotonic() + PIECE_S
        while resident.of_descriptor(self._descriptor, start, PIECE_BYTES).written_back:
            if time.monotonic() > deadline:
                return False
            time.sleep(_WAIT_STEP_S)
        return True
