"""Memory cgroups, versions 1 and 2: finding the one of a process, making one for a VM, taking pages back from it.

Version 1 (Documentation/admin-guide/cgroup-v1/memory.rst) has no way to ask for pages; lowering the limit for a moment
is one. Version 2 (Documentation/admin-guide/cgroup-v2.rst) has `memory.reclaim` since Linux 5.19. In both the kernel
chooses, by its least-recently-used lists.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import signal
import time
from pathlib import Path
from typing import Final

from blockstore.daemon.host.memory_limit import NO_LIMIT_BYTES, V1, V2, places

STEP_BYTES: Final = 16 << 20
"""Taken back at once, so that a VM is under a lowered limit for milliseconds only."""

END_S: Final = 5.0
"""How long the processes of a cgroup may take to be gone after they were killed."""


class Cgroup:
    """One memory cgroup; `path` is its directory, `version` V1 or V2, `limit_bytes` what its limit is to be set back to
    (version 1; -1 is none)."""

    def __init__(self, path: Path, version: str, limit_bytes: int = -1) -> None:
        self.path = path
        self.version = version
        self._limit_bytes = limit_bytes
        self._knows_swappiness = True

    def pids(self) -> list[int]:
        """Its processes, and those of cgroups below it, which are under its limit too. Raises OSError."""
        files = [self.path / "cgroup.procs", *self.path.glob("*/**/cgroup.procs")]
        return [int(line) for file in files for line in file.read_text().split()]

    def enter(self, pid: int) -> None:
        """Move a process into it. Raises OSError."""
        (self.path / "cgroup.procs").write_text(str(pid))

    def reclaim(self, size_bytes: int) -> None:
        """Have the kernel take back about so much, as far as it can. Raises OSError where that is not allowed."""
        while size_bytes > 0:
            step_bytes = min(size_bytes, STEP_BYTES)
            if not (self._reclaim_v2 if self.version == V2 else self._reclaim_v1)(step_bytes):
                return
            size_bytes -= step_bytes

    def cached_bytes(self) -> int:
        """Pages of files that are charged to it. Raises OSError."""
        fields = dict(line.split() for line in (self.path / "memory.stat").read_text().splitlines())
        return int(fields["file" if self.version == V2 else "total_cache"])

    def charged_bytes(self) -> int:
        """All memory that is charged to it. Raises OSError."""
        return int((self.path / ("memory.current" if self.version == V2 else "memory.usage_in_bytes")).read_text())

    def kill(self) -> None:
        """End all its processes, if it is there. Raises OSError."""
        deadline = time.monotonic() + END_S
        while self.path.exists() and (pids := self.pids()) and time.monotonic() < deadline:
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)

    def remove(self) -> None:
        """Remove it, if it is there; its processes have ended. Raises OSError."""
        deadline = time.monotonic() + END_S
        while True:
            try:
                self.path.rmdir()
                return
            except FileNotFoundError:
                return
            except OSError as error:
                if error.errno != errno.EBUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)

    def _reclaim_v2(self, size_bytes: int) -> bool:
        # The heap of QEMU is not to be swapped out instead; kernels before 6.9 do not know the word.
        text = f"{size_bytes} swappiness=0" if self._knows_swappiness else str(size_bytes)
        try:
            (self.path / "memory.reclaim").write_text(text)
        except OSError as error:
            if error.errno == errno.EINVAL and self._knows_swappiness:
                self._knows_swappiness = False
                return self._reclaim_v2(size_bytes)
            if error.errno in (errno.EAGAIN, errno.EINTR):  # it found less
                return False
            raise
        return True

    def _reclaim_v1(self, size_bytes: int) -> bool:
        limit, usage = self.path / "memory.limit_in_bytes", self.charged_bytes()
        try:
            limit.write_text(str(max(usage - size_bytes, 0)))
        except OSError as error:
            if error.errno in (errno.EBUSY, errno.EINTR):  # it found less; the limit has not changed
                return False
            raise
        finally:
            self.restore_limit()
        return True

    def restore_limit(self) -> None:
        """Set the limit of version 1 back: after each reclaim, and at a controller's start, because the one before may
        have been killed while the limit was down. Raises OSError."""
        if self.version == V1:
            (self.path / "memory.limit_in_bytes").write_text(str(self._limit_bytes))

    def limit_bytes(self) -> int:
        """The limit of version 1; -1 if there is none. Raises OSError."""
        if self.version == V2:
            return -1
        found = int((self.path / "memory.limit_in_bytes").read_text())
        return -1 if found > NO_LIMIT_BYTES else found


def of_process(pid: int | str) -> Cgroup:
    """The memory cgroup of a process ("self" is ours). Raises LookupError with a reason where none can be seen."""
    for version, _, path in places(pid):
        if path and (path / ("memory.limit_in_bytes" if version == V1 else "cgroup.procs")).exists():
            return Cgroup(path, version)
    raise LookupError("no memory cgroups are mounted here")


def create(name: str, own: Cgroup) -> Cgroup:
    """A new cgroup for one VM: below `own` (version 1), or beside it or an ancestor (version 2, where a cgroup that has
    processes may have no children). Raises LookupError with the reason if there is nowhere to make one."""
    reason = f"there is no memory controller at {own.path}"
    for place in _places(own):
        path = place / f"blockstore-{re.sub('[^A-Za-z0-9_.-]', '-', name)}-{os.getpid()}"
        try:
            path.mkdir()
        except OSError as error:
            reason = f"{path.parent} cannot be written to: {error.strerror}"
            continue
        made = Cgroup(path, own.version)
        if _is_usable(made):
            return made
        path.rmdir()
        reason = "this kernel has no memory.reclaim (Linux 5.19 has)" if own.version == V2 else reason
    raise LookupError(reason)


def _places(own: Cgroup) -> list[Path]:
    if own.version == V1:
        return [own.path]
    top = next((place.top for place in places("self") if place.version == V2), own.path)
    above = [path for path in (own.path, *own.path.parents) if path == top or top in path.parents]
    return [path for path in above if "memory" in _controllers(path)]


def _controllers(path: Path) -> list[str]:
    """Those that children of this cgroup have."""
    try:
        return (path / "cgroup.subtree_control").read_text().split()
    except OSError:
        return []


def _is_usable(cgroup: Cgroup) -> bool:
    if cgroup.version == V2:
        return (cgroup.path / "memory.reclaim").exists()
    with contextlib.suppress(OSError):
        (cgroup.path / "memory.swappiness").write_text("0")  # the heap of QEMU is not to be swapped out instead
    return (cgroup.path / "memory.limit_in_bytes").exists()
