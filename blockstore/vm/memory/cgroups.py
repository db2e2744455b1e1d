"""Memory cgroups, versions 1 and 2: finding the one of a process, making one for a VM, taking pages back from it.

Version 1 (Documentation/admin-guide/cgroup-v1/memory.rst) has no way to ask for pages; lowering the limit for a moment
is one. Version 2 (Documentation/admin-guide/cgroup-v2.rst) has `memory.reclaim` since Linux 5.19. In both the kernel
chooses, by its least-recently-used lists.

In version 2 a process need not be charged to the cgroup that /proc/PID/cgroup names. libvirt has QEMU's threads in
*threaded* cgroups (.../libvirt/emulator), which have no memory and list no processes: their *threaded domain*, a cgroup
above, has both. And where the memory controller is not enabled for a cgroup, the next one above that has it is charged.
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

NONE_MOUNTED: Final = "no memory cgroups are mounted here"

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
        """Returns its processes, and those of cgroups below it, which are under its limit too. Raises OSError."""
        below = (file.parent for file in self.path.glob("*/**/cgroup.procs"))
        # The processes of a threaded cgroup are those of the domain above it; its own file cannot be read (EOPNOTSUPP).
        places = [self.path, *(path for path in below if not _is_threaded(path))]
        return [int(line) for path in places for line in (path / "cgroup.procs").read_text().split()]

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


def home() -> Cgroup:
    """Returns the cgroup that we are in, of the hierarchy that may have memory. Raises LookupError with the reason if
    there is none to be seen."""
    for version, _, path in places("self"):
        if path and (path / ("memory.limit_in_bytes" if version == V1 else "cgroup.procs")).exists():
            return Cgroup(path, version)
    raise LookupError(NONE_MOUNTED)


def of_process(pid: int, proc: Path = Path("/proc")) -> Cgroup:
    """Returns the cgroup that the memory of a process is charged to, which may be one above its own. Raises LookupError
    with the reason if there is none to be seen."""
    reason = NONE_MOUNTED
    try:
        for version, top, path in places(pid, proc):
            if path is None:
                reason = f"it is in a cgroup outside of {top}, which is all that can be seen here"
            elif version == V1 and (path / "memory.limit_in_bytes").exists():
                return Cgroup(path, version)
            elif version == V2 and (charged := _charged(path, top)) is not None:
                return Cgroup(charged, version)
            elif version == V2 and "memory" not in _words(top / "cgroup.controllers"):
                reason = f"the cgroups at {top} have no memory controller"
            elif version == V2:
                reason = f"the memory controller is not enabled for {path}"
    except OSError as error:
        reason = f"/proc/{pid}/cgroup cannot be read: {error.strerror}"
    raise LookupError(reason)


def _charged(path: Path, top: Path) -> Path | None:
    """Returns the cgroup of version 2 that the memory of processes in `path` is charged to: the nearest one with the
    memory controller. The root of all has no files of it; `top` is another one in a container."""
    above = [each for each in (path, *path.parents) if each == top or top in each.parents]
    return next((each for each in above if (each / "memory.current").exists()), None)


def _is_threaded(path: Path) -> bool:
    return _words(path / "cgroup.type") == ["threaded"]


def create(name: str, own: Cgroup) -> Cgroup:
    """Makes a cgroup for one VM: below `own` (version 1), or beside it or one above (version 2, where a cgroup that has
    processes may have no children with memory of their own). Raises LookupError with the reason if there is nowhere to
    make one."""
    reason = f"no cgroup from {own.path} upwards lets those below it have the memory controller"
    for place in _places(own):
        path = place / f"blockstore-{re.sub('[^A-Za-z0-9_.-]', '-', name)}-{os.getpid()}"
        try:
            path.mkdir()
        except OSError as error:
            reason = f"{path.parent} cannot be written to: {error.strerror}{_delegation(own)}"
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
    return [path for path in above if "memory" in _words(path / "cgroup.subtree_control")]


def _delegation(own: Cgroup) -> str:
    """Returns what a user without root can do about it, as the end of a sentence."""
    if own.version == V1 or not os.geteuid():
        return ""
    return ", for it is not delegated to this user; `systemd-run --user --scope COMMAND` starts one in a cgroup that is"


def _words(file: Path) -> list[str]:
    """Returns the words of a cgroup's file; none where there is no such file."""
    try:
        return file.read_text().split()
    except OSError:
        return []


def _is_usable(cgroup: Cgroup) -> bool:
    if cgroup.version == V2:
        return (cgroup.path / "memory.reclaim").exists()
    with contextlib.suppress(OSError):
        (cgroup.path / "memory.swappiness").write_text("0")  # the heap of QEMU is not to be swapped out instead
    return (cgroup.path / "memory.limit_in_bytes").exists()
