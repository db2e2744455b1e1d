"""One VM under control: its file, its process, what is resident of it, and what is done about that.

Nothing here waits without a limit, but for the kernel's own work: the file is opened once, and while the VM runs, which
keeps the mount in use anyway.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from collections.abc import Mapping as Fields
from pathlib import Path
from typing import Any, Final

from blockstore.daemon.control.attachments import AUTO, Attachment
from blockstore.daemon.host.mounts import Mapping, Mount, mappings_of
from blockstore.daemon.host.process_stat import children, has_ended, start_time
from blockstore.vm import resident
from blockstore.vm.memory.cgroups import Cgroup
from blockstore.vm.memory.mechanism import ByCgroup, Clock, Mechanism
from blockstore.vm.memory.policy import Aging, Auto, Fixed, Policy, Taken, pause_s
from blockstore.vm.memory.read_ahead import ReadAhead
from blockstore.vm.memory.refault_cost import RefaultCost
from blockstore.vm.memory.write_back import IDLE_TIMES, WriteBack
from blockstore.vm.memory.write_errors import has_failed
from blockstore.vm.open_files import folder_of, open_volume
from blockstore.vm.qemu import qmp_sockets
from blockstore.vm.snapshot import working_set

RECLAIM_S: Final = 2.0
"""How long the controller waits for the kernel to take pages back before it goes on with the next VM."""

KEEP_TRYING: Final = 3
"""Failures in a row after which a mechanism is given up for the next one."""


class Ended(Exception):
    """The VM's process has ended. Nothing else is the end of a VM: its file may be renamed, deleted or out of sight."""


class Controlled:
    """Made when the VM is attached; `tick` it every second, `close` it when it raised Ended."""

    def __init__(self, mount: Mount, name: str, attachment: Attachment, failed: set[int]) -> None:
        """`failed` are the volumes whose write-back has failed (write_watch.py). Raises Ended; OSError when the file
        cannot be opened, which may be different the next time."""
        self.attachment = attachment
        self._failed = failed
        self._mount = mount
        self._pidfd = open_process(attachment)
        try:
            self._descriptor = open_volume(mount, name, attachment.volume)
        except BaseException:
            os.close(self._pidfd)
            raise
        self._write_back = WriteBack(self._descriptor)
        self._cost = RefaultCost(self._descriptor)
        self._read_ahead = ReadAhead(mount, attachment.volume, self._pids)
        self._policy: Policy = (
            Auto(attachment.target_share, attachment.least_bytes)
            if attachment.resident == AUTO
            else Fixed(int(attachment.resident))
        )
        self._mechanism = self._choose(attachment.cgroup)
        self._reclaiming = Reclaiming()
        self._aging = Aging()
        self._taken = Taken()
        self._failures = 0
        self._reclaimed_bytes = 0
        self._counts: Fields[str, Any] | None = None
        self._at = self._written_at = time.monotonic()
        self._due = 0.0

    def fileno(self) -> int:
        """Readable when the VM has ended (poll(2))."""
        return self._pidfd

    def tick(self, counts: Fields[str, Any], write_s: float, *, may_write: bool) -> None:
        """Write back, for `write_s` at most of a VM that works; look and reclaim, if it is time to. `counts` are the
        daemon's of this volume; `may_write` is false while the pool has no room. Raises Ended; OSError when the file
        cannot be looked at."""
        if has_ended(self._pidfd):
            raise Ended
        now = time.monotonic()
        self._read_ahead.tick(now)
        may_write = may_write and self._may_evict()
        if may_write:
            self._write_back.go_on(now - self._written_at, write_s if self._read_ahead.works else write_s * IDLE_TIMES)
        self._written_at = now
        if now < self._due:
            return
        began_s, reclaimed_s, taken_bytes = time.thread_time(), self._reclaiming.processor_s, self._reclaimed_bytes
        self._look(counts, now - self._at, may_write=may_write)
        self._at = now
        cost_s = time.thread_time() - began_s + self._reclaiming.processor_s - reclaimed_s
        self._due = now + pause_s(cost_s, self._reclaimed_bytes - taken_bytes)

    def report(self) -> dict[str, Any]:
        """For `status`."""
        share = self._policy.share if isinstance(self._policy, Auto) else None
        return {
            "mechanism": self._mechanism.name,
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
        waited_s = 0.0
        if before is not None:
            part = self._taken.share_of(self._cost.blocks(before, counts))
            waited_s = part * self._cost.waited_s(before, counts)
        resident_bytes = self._can_take_bytes()
        if not self._policy.must:
            if self._aging.is_due(resident_bytes, self._at + elapsed_s):
                self._mechanism.age()
            if not self._aging.is_over(self._at + elapsed_s):
                may_write = False
        if not may_write:
            self._policy.wait(waited_s, elapsed_s)
            return
        wanted = self._policy.reclaim_bytes(resident_bytes, waited_s, elapsed_s)
        if wanted and self._policy.must:  # then to the page
            wanted = self._policy.reclaim_bytes(resident.of_descriptor(self._descriptor).resident, waited_s, elapsed_s)
        if wanted:
            self._reclaim(wanted, resident_bytes)

    def _reclaim(self, wanted_bytes: int, before_bytes: int) -> None:
        if not self._may_evict():
            return
        failure = self._reclaiming.run(lambda: self._mechanism.reclaim(wanted_bytes, must=self._policy.must))
        self._failures = self._failures + 1 if failure else 0
        if self._failures >= KEEP_TRYING and not isinstance(self._mechanism, Clock):
            self._mechanism = self._choose("")
        else:
            taken_bytes = max(before_bytes - self._can_take_bytes(), 0)
            self._reclaimed_bytes += taken_bytes
            # What the VM has taken back by now was taken away, too.
            self._taken.take(max(taken_bytes, 0 if failure else wanted_bytes))

    def _may_evict(self) -> bool:
        """Has the store all that is clean? Asked after a look at what is clean, by the reclaiming thread too."""
        volume = self.attachment.volume
        if volume not in self._failed and has_failed(self._descriptor):
            self._failed.add(volume)
        return volume not in self._failed

    def _can_take_bytes(self) -> int:
        try:
            return self._mechanism.resident_bytes()
        except OSError:
            if isinstance(self._mechanism, Clock):
                raise
            self._mechanism = self._choose("")  # somebody has taken the cgroup away
            return self._mechanism.resident_bytes()

    def _choose(self, path: str) -> Mechanism:
        if path:
            cgroup = cgroup_of(self.attachment)
            with contextlib.suppress(OSError):
                cgroup.restore_limit()
            return ByCgroup(cgroup, self._mappings)
        return Clock(self._descriptor, os.fstat(self._descriptor).st_size, self._mappings, self._may_evict)

    def _pids(self) -> list[int]:
        """The VM's processes. One that `run` has made is a child of the attached process."""
        return [self.attachment.pid, *children(self.attachment.pid)]

    def _mappings(self) -> list[Mapping]:
        """The VM's mappings of the file."""
        found: list[Mapping] = []
        for pid in self._pids():
            with contextlib.suppress(OSError, ValueError):
                found += [each for each in mappings_of(pid, self._mount) if each.inode == self.attachment.volume]
        return found


class Reclaiming:
    """Runs one reclaim at a time, in a thread that nobody waits for longer than RECLAIM_S: version 1 cgroups wait for
    pages that are being written back, and while the pool is full that may be for ever."""

    def __init__(self) -> None:
        self.processor_s = 0.0
        self._thread: threading.Thread | None = None
        self._failed = False

    def run(self, reclaim: Callable[[], None]) -> bool:
        """Do it, unless the last one still goes on; True if it failed."""
        if self._thread is not None and self._thread.is_alive():
            return False
        self._failed = False
        self._thread = threading.Thread(target=self._run, args=(reclaim,), name="reclaim", daemon=True)
        self._thread.start()
        self._thread.join(RECLAIM_S)
        return self._failed

    def _run(self, reclaim: Callable[[], None]) -> None:
        try:
            reclaim()
        except OSError:
            self._failed = True
        finally:
            self.processor_s += time.thread_time()


def cgroup_of(attachment: Attachment) -> Cgroup:
    """The cgroup to take pages from."""
    return Cgroup(Path(attachment.cgroup), attachment.cgroup_version, attachment.cgroup_limit_bytes)


def end(mount: Mount, name: str | None, attachment: Attachment) -> None:
    """Take away what is left of a VM that `run` has made and whose process has ended: what of it still runs in its
    cgroup, which is nobody else's, the cgroup, its sockets, its file, and the folder that was made for it.

    `run` does that itself, unless it was killed. Raises OSError.
    """
    if not attachment.owned:
        return
    qmp_sockets.remove(mount.state, attachment.volume)
    working_set.remove(mount.state, attachment.volume)
    if attachment.cgroup:
        cgroup = cgroup_of(attachment)
        cgroup.kill()
        cgroup.remove()
    if name is None or attachment.kept:
        return
    with contextlib.suppress(FileNotFoundError), folder_of(mount, name) as (folder, last):
        if mount.has(os.stat(last, dir_fd=folder, follow_symlinks=False), attachment.volume):
            os.unlink(last, dir_fd=folder)
    parent = name.rpartition("/")[0]
    if attachment.made_folder and parent:
        with contextlib.suppress(OSError), folder_of(mount, parent) as (folder, last):
            os.rmdir(last, dir_fd=folder)  # unless somebody else has a file there


def open_process(attachment: Attachment) -> int:
    """A pidfd of the attached process. Raises Ended."""
    try:
        pidfd = os.pidfd_open(attachment.pid)
    except OSError:
        raise Ended from None
    if start_time(attachment.pid) != attachment.started or has_ended(pidfd):  # it may wait for its parent
        os.close(pidfd)
        raise Ended
    return pidfd
