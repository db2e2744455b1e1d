"""How far the kernel reads around a page that a VM faults: far while the VM works, little while it idles.

A fault on the file brings the blocks around it too (mm/filemap.c, do_sync_mmap_readahead). A VM that works waits five
to eight times less often for that (docs/performance.md); one that only wakes up for its timers gets thirty pages back
for each that it looks at, and the controller takes them away again.

The kernel keeps the distance in each open file, and copies it there from the file system's when the file is opened, or
when somebody says POSIX_FADV_NORMAL of it. The VM's own open file is reached with pidfd_getfd(2). Where that is not
allowed, or /sys is read-only, all stays as it was at the mount.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from blockstore.daemon.host.mounts import READ_AHEAD_BYTES, Mount
from blockstore.daemon.host.process_stat import processor_s
from blockstore.vm.open_files import borrowed, descriptors_of

IDLE_BYTES: Final = 16 << 10
"""Around a fault of a VM that idles."""

WORKING_SHARE: Final = 0.1
"""Of a core, from which on a VM works. An idle Linux guest takes 1 to 4 %."""

IDLE_AFTER_S: Final = 10.0
"""It must have been below for so long: a wrong "idle" costs a VM waits, a wrong "works" some pages for a while."""


class ReadAhead:
    """Of one VM: `tick` it every second. `pids` are its processes, as they are at the moment."""

    def __init__(self, mount: Mount, volume: int, pids: Callable[[], Sequence[int]]) -> None:
        self._mount = mount
        self._volume = volume
        self._pids = pids
        self._at: float | None = None
        self._processor_s = 0.0
        self._worked_at = 0.0
        self.works = True
        """Within the last IDLE_AFTER_S."""
        self._is_far: bool | None = None  # not known: a controller before this one may have set it

    def tick(self, now_s: float) -> None:
        """Look what the VM has done since the last time, and set what fits that."""
        pids = self._pids()
        at, self._at = self._at, now_s
        before_s, self._processor_s = self._processor_s, sum(map(processor_s, pids))
        if at is None or self._processor_s - before_s >= WORKING_SHARE * (now_s - at):
            self._worked_at = now_s
        self.works = is_far = now_s - self._worked_at < IDLE_AFTER_S
        if is_far != self._is_far:
            self._is_far = is_far
            with contextlib.suppress(OSError):
                set_read_ahead(self._mount, self._volume, pids, READ_AHEAD_BYTES if is_far else IDLE_BYTES)


def set_read_ahead(mount: Mount, volume: int, pids: Sequence[int], size_bytes: int) -> None:
    """Of all open files of the volume in these processes. Raises OSError where that is not allowed.

    The mount's own setting is changed for the moment that it takes: a file that is opened in that moment gets the same.
    """
    setting = Path("/sys/class/bdi") / mount.device / "read_ahead_kb"
    before = setting.read_text()
    setting.write_text(str(size_bytes >> 10))
    try:
        for pid in pids:
            for descriptor in descriptors_of(pid, volume):
                with borrowed(pid, descriptor) as own:
                    if mount.has(os.fstat(own), volume):
                        os.posix_fadvise(own, 0, 0, os.POSIX_FADV_NORMAL)
    finally:
        setting.write_text(str(max(int(before), READ_AHEAD_BYTES >> 10)))
