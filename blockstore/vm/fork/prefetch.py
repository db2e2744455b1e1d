"""A new VM's memory gets into the page cache before the VM asks for it: what another one with the same origin has read
first (working_set.py).

By ordinary read-ahead on the VM's file, in a process of its own, which begins while QEMU starts and has ended when the
VM's processors run. It cannot do harm at any time: the kernel reads only what is not resident, and never over a
page that somebody has written to. (FUSE_NOTIFY_STORE, which the daemon could send instead, does write over such
pages; docs/snapshots.md.)
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from pathlib import Path
from typing import Final

from blockstore.store.state.geometry import BLOCK_BYTES
from blockstore.vm import apart, resident
from blockstore.vm.snapshot import working_set
from blockstore.vm.snapshot.working_set import Run

PIECE_BLOCKS: Final = 32
"""Read with one call: 128 KiB, the most that the kernel reads ahead for one, and 0.2 ms in which no other fault of the
mount is answered."""

WAIT_S: Final = 0.25
"""How long the VM may be kept waiting for it once it could run. It has begun a quarter of a second before, and 64 MiB
take a tenth; a store that is slower than that is better left to those who wait for it."""

LOOKS_S: Final = (0.1, 0.3, 1.0, 2.0)
"""After the VM runs, when it is looked at what is resident. Four looks tell early from late; a fault need not be told
from the next one, for all are read before the first is asked for. What a VM needs after two seconds is its work."""


class Prefetch:
    """For the VMs that begin with what the memory file number `origin` has, of a mount with the directory `state`."""

    def __init__(self, state: Path, origin: int) -> None:
        self._state = state
        self._origin = origin
        self._runs = working_set.load(state, origin)
        self._is_recorded = bool(self._runs)

    def begin(self, memory: Path) -> Reading:
        """Read for the VM with this memory file, which has its origin's content by now."""
        return Reading(memory, self._runs)

    def follow(self, memory: Path) -> None:
        """The VM runs. If nobody knows yet what VMs of this origin need, a process that outlives us finds out."""
        if not self._is_recorded:
            self._is_recorded = True
            apart.fork([], lambda: _record(self._state, self._origin, memory))


class Reading:
    """Under way in a process of its own."""

    def __init__(self, memory: Path, runs: list[Run]) -> None:
        self._pid = apart.fork([], lambda: _read(memory, runs)) if runs else 0

    def finish(self) -> None:
        """Wait for it, but not longer than WAIT_S; nothing is read any more afterwards."""
        if not self._pid:
            return
        process = os.pidfd_open(self._pid)
        try:
            poll = select.poll()
            poll.register(process, select.POLLIN)
            if not poll.poll(WAIT_S * 1000):
                signal.pidfd_send_signal(process, signal.SIGKILL)
        finally:
            os.close(process)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, os.WNOHANG)  # one that is in the kernel still ends after its piece
        self._pid = 0


def read(descriptor: int, runs: list[Run]) -> None:
    """Have all that is in the file and not resident read, in this order. Raises OSError."""
    size_blocks = os.fstat(descriptor).st_size // BLOCK_BYTES
    for run in runs:
        end = min(run.first + run.blocks, size_blocks)
        for first in range(run.first, end, PIECE_BLOCKS):
            count = min(PIECE_BLOCKS, end - first)
            os.posix_fadvise(descriptor, first * BLOCK_BYTES, count * BLOCK_BYTES, os.POSIX_FADV_WILLNEED)


def _read(memory: Path, runs: list[Run]) -> int:
    with contextlib.suppress(OSError):  # the VM reads it then
        descriptor = os.open(memory, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        read(descriptor, runs)
    return 0


def _record(state: Path, origin: int, memory: Path) -> int:
    began, volume, looks = time.monotonic(), 0, []
    with contextlib.suppress(OSError):  # a VM that has ended has told nothing
        for at_s in LOOKS_S:
            time.sleep(max(began + at_s - time.monotonic(), 0))
            descriptor = os.open(memory, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
            try:
                number = os.fstat(descriptor).st_ino
                if volume not in (0, number):
                    return 0
                volume = number
                looks.append(resident.pages_of(descriptor))
            finally:
                os.close(descriptor)  # the VM may end, and nobody is to wait for us then
        working_set.save(state, origin, working_set.in_order(looks))
    return 0
