"""What a refault costs a VM, in time: the lane counts refaults, and how long one takes is tried out here.

The daemon does not see how long a VM waits for it: the kernel's work and the wake-ups of two processes are most of it,
and take 20 us on one machine and 300 on another (docs/decisions.md, "Where a wake-up costs least"). So now and then a
few pages that are not resident are read, as a VM would fault them; the least of the last medians counts.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Mapping
from typing import Any, Final

from blockstore.vm import resident

FIRST_US: Final = 100.0
"""Until it was tried out."""

PROBES: Final = 9
LOOKS: Final = 64
"""Pages looked at for PROBES that are not resident."""

EVERY_S: Final = 15.0
TRIES: Final = 4
"""Of so many tries the least counts: one that fell into a busy moment took 3 ms instead of 20 us, of which most was
waiting for a processor, and a VM that was charged for that kept its memory."""

BLOCK_US: Final = 6.0
"""What each further block of a request for several takes (read-ahead): decoding and copying."""

_PAGE: Final = 4096


class RefaultCost:
    """For one file."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._next_at = 0.0
        self.fault_us = FIRST_US
        self._tries_us: deque[float] = deque(maxlen=TRIES)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)  # ours alone: no read-ahead for the probes

    def waited_s(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> float:
        """How long the VM has waited for its refaults between two states of the daemon's counts."""
        if time.monotonic() >= self._next_at:
            self._next_at = time.monotonic() + EVERY_S
            self._try_out()
        single, requests, blocks = (int(now[key]) - int(before[key]) for key in _KEYS)
        if single < 0 or requests < 0:
            return 0.0  # another daemon has begun to count
        return float((single + requests) * self.fault_us + blocks * BLOCK_US) / 1e6

    def blocks(self, before: Mapping[str, Any], now: Mapping[str, Any]) -> int:
        """How many blocks have come meanwhile."""
        single, _, blocks = (int(now[key]) - int(before[key]) for key in _KEYS)
        return max(single + blocks, 0)

    def _try_out(self) -> None:
        pages = os.fstat(self._descriptor).st_size // _PAGE
        times_us: list[float] = []
        for _ in range(LOOKS if pages else 0):
            offset = int.from_bytes(os.urandom(8)) % pages * _PAGE
            if resident.of_descriptor(self._descriptor, offset, _PAGE).resident:
                continue
            started_ns = time.perf_counter_ns()
            os.pread(self._descriptor, 1, offset)
            times_us.append((time.perf_counter_ns() - started_ns) / 1000)
            if len(times_us) >= PROBES:
                break
        if times_us:
            self._tries_us.append(sorted(times_us)[len(times_us) // 2])
            self.fault_us = min(self._tries_us)


_KEYS: Final = ("refaults", "range_requests", "range_refaults")
