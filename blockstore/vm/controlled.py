"""One VM under control: its file, its process, what is resident of it, and what is done about that.

Nothing here waits without a limit, but for the kernel's own work: the file is opened once, and while the VM runs, which
keeps the mount in use anyway.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Mapping as Fields
from pathlib import Path
from typing import Any, Final

from blockstore.daemon.attachments import AUTO, Attachment
from blockstore.daemon.mounts import Mapping, Mount, mappings, mappings_of
from blockstore.vm import resident
from blockstore.vm.cgroups import Cgroup
from blockstore.vm.mechanism import ByCgroup, Clock, Mechanism
from blockstore.vm.policy import Auto, Fixed, Policy
from blockstore.vm.refault_cost import RefaultCost
from blockstore.vm.write_back import WriteBack

LARGEST_COST: Final = 0.008
"""Of a core, for one VM: after a look that took long, or took much away, the next one comes so much later."""

LONGEST_PAUSE_S: Final = 15.0
"""But no later than that."""

KEEP_TRYING: Final = 3
"""Failures in a row after which a mechanism is given up for the next one."""


class Ended(Exception):
    """The VM has ended, or its file is gone."""


class Controlled:
    """Made when the VM is attached; `tick` it every second, `close` it when it raised Ended."""

    def __init__(self, mount: Mount, name: str, attachment: Attachment) -> None:
        """Raises Ended, OSError."""
        self.attachment = attachment
        self._mount = mount
        self._path = mount.path / name
        self._pidfd = _open_process(attachment)
        try:
            self._descriptor = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            os.close(self._pidfd)
            raise Ended from None
        self._write_back = WriteBack(self._descriptor)
        self._cost = RefaultCost(self._descriptor)
        self._policy: Policy = (
            Auto(attachment.target_share) if attachment.resident == AUTO else Fixed(int(attachment.resident))
        )
        self._mechanism = self._choose(attachment.cgroup)
        self._failures = 0
        self._reclaimed_bytes = 0
        self._resident_bytes = 0
        self._counts: Fields[str, Any] | None = None
        self._at = time.monotonic()
        self._due = 0.0

    def fileno(self) -> int:
        """Readable when the VM has ended (select(2))."""
        return self._pidfd

    def tick(self, counts: Fields[str, Any], *, may_write: bool) -> None:
        """Look, write back, reclaim, if it is time to. `counts` are the daemon's of this volume; `may_write` is false
        while the pool has no room. Raises Ended; OSError when the file cannot be looked at."""
        if select.select([self._pidfd], [], [], 0)[0]:
            raise Ended
        now = time.monotonic()
        if now < self._due:
            return
        began_s = time.thread_time()
        self._look(counts, now - self._at, may_write=may_write)
        self._at = now
        self._due = now + min((time.thread_time() - began_s) / LARGEST_COST, LONGEST_PAUSE_S)

    def report(self) -> dict[str, Any]:
        """For `status`."""
        share = self._policy.share if isinstance(self._policy, Auto) else None
        return {
            "mechanism": self._mechanism.name,
            "resident": self._resident_bytes,
            "reclaimed": self._reclaimed_bytes,
            "refault_share": share,
            "refault_us": self._cost.fault_us,
        }

    def close(self) -> None:
        """The VM has ended."""
        os.close(self._descriptor)
        os.close(self._pidfd)

    def _look(self, counts: Fields[str, Any], elapsed_s: float, *, may_write: bool) -> None:
        before, self._counts = self._counts, counts
        waited_s = self._cost.waited_s(before, counts) if before is not None else 0.0
        if may_write:
            self._write_back.go_on(elapsed_s)
        self._resident_bytes = resident.of_descriptor(self._descriptor).resident
        wanted = self._policy.reclaim_bytes(self._resident_bytes, waited_s, elapsed_s)
        if wanted and may_write:
            self._reclaim(wanted)

    def _reclaim(self, wanted_bytes: int) -> None:
        try:
            self._mechanism.reclaim(wanted_bytes, must=self._policy.must)
            self._failures = 0
        except OSError:
            self._failures += 1
            if self._failures >= KEEP_TRYING and not isinstance(self._mechanism, Clock):
                self._mechanism = self._choose("")  # somebody has taken the cgroup away
            return
        after_bytes = resident.of_descriptor(self._descriptor).resident
        self._reclaimed_bytes += max(self._resident_bytes - after_bytes, 0)
        self._resident_bytes = after_bytes

    def _choose(self, cgroup: str) -> Mechanism:
        if cgroup:
            return ByCgroup(Cgroup(Path(cgroup), self.attachment.cgroup_version))
        return Clock(self._descriptor, os.fstat(self._descriptor).st_size, self._mapping)

    def _mapping(self) -> Mapping | None:
        """The VM's mapping of the file. A VM that `run` has made is a child of the attached process."""
        inode = os.fstat(self._descriptor).st_ino
        for pid in (self.attachment.pid, *_children(self.attachment.pid)):
            with contextlib.suppress(OSError, ValueError):
                for mapping in mappings_of(pid, self._mount):
                    if mapping.inode == inode:
                        return mapping
        return None


def end(mount: Mount, name: str | None, attachment: Attachment) -> None:
    """Take away what is left of a VM that `run` has made: what of it still runs, its cgroup, its file.

    `run` does that itself, unless it was killed. Raises OSError.
    """
    if not attachment.owned:
        return
    if attachment.cgroup:
        cgroup = Cgroup(Path(attachment.cgroup), attachment.cgroup_version)
        if cgroup.path.exists():
            cgroup.kill()
            cgroup.remove()
    if name is None:
        return
    for mapping in mappings(mount):
        if mapping.inode == attachment.volume:
            with contextlib.suppress(ProcessLookupError):
                os.kill(mapping.pid, 9)
    if not attachment.kept:
        (mount.path / name).unlink(missing_ok=True)


def _open_process(attachment: Attachment) -> int:
    try:
        pidfd = os.pidfd_open(attachment.pid)
    except OSError:
        raise Ended from None
    if start_time(attachment.pid) != attachment.started:
        os.close(pidfd)
        raise Ended
    return pidfd


def start_time(pid: int) -> int | None:
    """When a process was started, in clock ticks since the machine's start (proc_pid_stat(5)); None if it has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except OSError:
        return None


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
