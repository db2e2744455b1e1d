"""Which processes are to be attached without being asked for: those whose memory files of the mount are.

The daemon tells which files somebody may write to and no attached VM has; a mapping keeps its file open, so a mount
whose VMs are all attached costs nothing here. /proc/PID/maps of all processes are read when there is such a file, and
then more and more seldom, for a file that `cp` writes is such a one as well.

What is a VM: a process that has a file mapped shared and writable for HELD_S, in two looks. Nothing is concluded from
the program's name, of which there are too many. Of several processes that have it mapped (a device in a process of its
own, vhost-user, has) it is the one that has the file open, too, as QEMU and its like do; of several of these, QEMU.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, NamedTuple

from blockstore.daemon.control.attachments import AUTO, BY_CONTROLLER, OFF, Attachment, Residency
from blockstore.daemon.host import mounts
from blockstore.daemon.host.mounts import Mount
from blockstore.daemon.host.process_stat import command, parent, start_time
from blockstore.vm.memory.mechanism import in_cgroup, own_cgroup
from blockstore.vm.open_files import descriptors_of

HELD_S: Final = 3.0
"""Programs that map a file to copy, compare or check it are done with a part of it sooner, as a rule."""

FIRST_LOOK_S: Final = 1.0
LONGEST_WAIT_S: Final = 60.0
"""From one look for a file's process to the next, twice as long each time that there was none."""

LARGEST_COST: Final = 0.008
"""Of a core, for looks, as for each VM that is attached (policy.py): after one that took long the next comes later."""

LONGEST_PAUSE_S: Final = 10.0
"""But no later than that: a VM waits for two of them."""


class _Holder(NamedTuple):
    """A process, by number and start time, and the address of its mapping: a new one is held anew."""

    pid: int
    started: int | None
    address: int


class _File:
    """`found` is the process that had it mapped at the last look, and where, since `since_s`."""

    def __init__(self, now_s: float) -> None:
        self.wait_s = FIRST_LOOK_S
        self.due_s = now_s + FIRST_LOOK_S
        self.found: _Holder | None = None
        self.since_s = 0.0


class AutoAttach:
    """Of one mount. `mappings` are those of the mount's files in all processes, `has_open` says whether a process has a
    file open, by process and file number, and `processor_s` how much processor time we have taken."""

    def __init__(
        self,
        mappings: Callable[[Mount], Iterable[mounts.Mapping]] = mounts.mappings,
        has_open: Callable[[int, int], bool] | None = None,
        processor_s: Callable[[], float] = time.thread_time,
    ) -> None:
        self._mappings = mappings
        self._has_open = has_open or _has_open
        self._processor_s = processor_s
        self._files: dict[int, _File] = {}
        self._next_look_s = 0.0

    def look(
        self,
        mount: Mount,
        unattached: Mapping[int, Mapping[str, Any]],
        attached: Mapping[int, Attachment],
        now_s: float,
    ) -> list[Attachment]:
        """Returns the attachments to make now. `unattached` are the daemon's, by number, with `is_wanted`; of the
        others only those count that a process of `attached` has, as memory that was plugged in."""
        by_process = {(each.pid, each.started): each for each in attached.values()}
        for number in self._files.keys() - unattached.keys():
            del self._files[number]
        for number, facts in unattached.items():
            if facts["is_wanted"] or by_process:
                self._files.setdefault(number, _File(now_s))
        if now_s < self._next_look_s or not any(file.due_s <= now_s for file in self._files.values()):
            return []
        began_s = self._processor_s()
        users = self._users(mount)
        pause_s = (self._processor_s() - began_s) / LARGEST_COST
        self._next_look_s = now_s + min(pause_s, LONGEST_PAUSE_S)
        made = []
        for number, file in self._files.items():
            found = self._holder_of(number, users.get(number, {}))
            like = next((each for key in _processes(found) if (each := by_process.get(key))), None)
            if like is None and not unattached[number]["is_wanted"]:
                found = None
            if found is not None and found == file.found and now_s - file.since_s >= HELD_S:
                made.append(_attachment(number, found, like))
            self._note(file, found, now_s)
        return made

    def _users(self, mount: Mount) -> dict[int, dict[int, int]]:
        """Returns, for each file, the processes that have it mapped as a VM has its memory, each with an address."""
        users: dict[int, dict[int, int]] = {}
        for each in self._mappings(mount):
            if each.is_shared and each.is_writable and each.inode in self._files:
                users.setdefault(each.inode, {}).setdefault(each.pid, each.start)
        return users

    def _holder_of(self, number: int, addresses: dict[int, int]) -> _Holder | None:
        having_open = [pid for pid in sorted(addresses) if self._has_open(pid, number)]
        qemus = [pid for pid in having_open if b"qemu" in b"".join(command(pid)[:1])]
        pid = next(iter(qemus or having_open or sorted(addresses)), None)
        return None if pid is None else _Holder(pid, start_time(pid), addresses[pid])

    def _note(self, file: _File, found: _Holder | None, now_s: float) -> None:
        if found is None:
            file.wait_s = min(2 * file.wait_s, LONGEST_WAIT_S)
        elif found != file.found:
            file.since_s, file.wait_s = now_s, HELD_S
        file.found, file.due_s = found, now_s + file.wait_s


def _attachment(number: int, holder: _Holder, like: Attachment | None) -> Attachment:
    """With the default policy; memory that was plugged in is held as that of the VM is. A size holds for one file: then
    it is as little as there can be, and not taken from the VM's cgroup, in which the other file is, too."""
    if like is not None:
        like = like._replace(volume=number, owned=False, kept=False, made_folder=False, by=BY_CONTROLLER)
        if like.resident in (AUTO, OFF):
            return like
        return like._replace(resident=AUTO, cgroup="", cgroup_version="", cgroup_limit_bytes=-1)
    attachment = Attachment(number, holder.pid, holder.started, **Residency()._asdict(), by=BY_CONTROLLER)
    with contextlib.suppress(LookupError, OSError):  # madvise does it then
        return in_cgroup(attachment, own_cgroup(holder.pid))
    return attachment


def _processes(holder: _Holder | None) -> list[tuple[int, int | None]]:
    """A VM's process and its parent: one of `run` is attached by the shell around its QEMU."""
    if holder is None:
        return []
    above = parent(holder.pid)
    return [(holder.pid, holder.started), *([(above, start_time(above))] if above else [])]


def _has_open(pid: int, number: int) -> bool:
    try:
        return next(iter(descriptors_of(pid, number)), None) is not None
    except OSError:
        return False
