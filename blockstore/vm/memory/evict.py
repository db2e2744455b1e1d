"""Evicting: pages of VM memory are written back and leave the page cache, and are in the store alone then.

Two ways out (docs/decisions.md): pages that nobody has mapped are dropped with posix_fadvise(2); pages that a VM has
mapped are reclaimed from outside with process_madvise(2), MADV_PAGEOUT. The VM runs on and faults back what it needs.
Called from the command line's process, never from the daemon.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable
from typing import Final, NamedTuple

from blockstore.daemon.host.mounts import Mapping
from blockstore.store import sync_range
from blockstore.vm import resident
from blockstore.vm.memory import write_errors
from blockstore.vm.memory.page_out import page_out

_STEP_BYTES: Final = 64 << 20
"""Advised at once, so that Ctrl-C is heard."""

_WRITE_BACK_BYTES: Final = 4 << 20
"""Written back at once: whoever stores into a page that is being written back waits for all that was sent with it.
This much takes about 15 ms; all of a file's dirty pages at once held a VM up for 400 ms."""


_ROUNDS: Final = 4
"""How often what is left is tried again, while no more is left than the processors may hold in their batches."""

_BATCHES: Final = 5
_BATCH_PAGES: Final = 31
"""A page whose folio is in one of a processor's five batches (mm/swap.c, PAGEVEC_SIZE) is on no list that
MADV_PAGEOUT could take it from. posix_fadvise(2) drains the batches of all processors when it meets a mapped page."""


class Evicted(NamedTuple):
    """Resident bytes before and after; `rewritten_bytes` had to be written again because write-back had failed."""

    before: int
    after: int
    rewritten_bytes: int


def evict(descriptor: int, mappings: Iterable[Mapping]) -> Evicted:
    """Evict one open file; `mappings` are the mappings of files of its mount.

    Raises OSError: PermissionError where a mapping process is not ours. Where write-back fails nothing is evicted.
    """
    before = resident.of_descriptor(descriptor).resident
    inode = os.fstat(descriptor).st_ino
    rewritten_bytes = _write_back(descriptor)  # only clean pages can leave
    own = [mapping for mapping in mappings if mapping.inode == inode]
    for _ in range(_ROUNDS):
        for mapping in own:
            _page_out(mapping)
        rewritten_bytes += _write_back(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
        after = resident.of_descriptor(descriptor).resident
        if not after or not own or after > _batched_bytes():
            break
    return Evicted(before, after, rewritten_bytes)


def _batched_bytes() -> int:
    """What the batches of all processors may hold."""
    return (os.cpu_count() or 1) * _BATCHES * _BATCH_PAGES * mmap.PAGESIZE


def _write_back(descriptor: int) -> int:
    """How many bytes had to be written again. Raises OSError."""

    def once() -> None:
        for start in range(0, os.fstat(descriptor).st_size, _WRITE_BACK_BYTES):
            sync_range.complete(descriptor, start, _WRITE_BACK_BYTES)

    return write_errors.insist(descriptor, once)


def _page_out(mapping: Mapping) -> None:
    for done in range(0, mapping.length, _STEP_BYTES):
        page_out(mapping.pid, mapping.start + done, min(_STEP_BYTES, mapping.length - done))
