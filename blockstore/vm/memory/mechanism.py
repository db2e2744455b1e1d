"""How pages of a VM are made to leave the page cache, from outside: the three ways, and which of them a VM gets.

The kernel's choice of cold pages (a memory cgroup) is the better one; without a cgroup of the VM's own, `Clock`
chooses. All of them take clean pages only; writing back is write_back.py's.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from typing import Final, Protocol

from blockstore.daemon.control.attachments import Attachment
from blockstore.daemon.host import mounts
from blockstore.daemon.host.memory_limit import V2
from blockstore.daemon.host.mounts import Mapping
from blockstore.daemon.host.process_stat import parent
from blockstore.vm import resident
from blockstore.vm.memory import cgroups, page_out
from blockstore.vm.memory.cgroups import Cgroup

MADVISE: Final = "madvise"

CHUNK_BYTES: Final = 256 << 10
MAXIMUM_CHUNKS: Final = 1 << 16
"""What Clock looks at and pages out at once; of a file above 16 GiB more, so that its notes stay small."""

ROOM_BYTES: Final = 8 << 20
"""What a fixed size leaves free for what comes until the next look, of pages that nobody has mapped: a fault where QEMU
has advised huge pages reads up to 4 MiB."""

HOT_SHARE: Final = 0.25
"""A chunk of which so much has come back since it was paged out is in use."""

AGE_STEP_BYTES: Final = 64 << 20
"""Of a mapping, aged at once: 2 ms, for which the VM may wait when it faults."""

MAXIMUM_SKIPS: Final = 32
"""A chunk that is in use each time is tried again after so many rounds at least."""


class Mechanism(Protocol):
    """One way; `name` is what `status` shows."""

    name: str

    def reclaim(self, size_bytes: int, *, must: bool) -> None:
        """Make about so many bytes of clean pages leave; cold ones, or any if they `must`. Raises OSError where that is
        not allowed (any more)."""

    def age(self) -> None:
        """Forget what was used until now, for the choice of what is cold, where that is allowed."""

    def resident_bytes(self) -> int:
        """What is resident of all from which it can take. Raises OSError."""


class ByCgroup:
    """The kernel's choice."""

    def __init__(self, cgroup: Cgroup, mappings: Callable[[], Sequence[Mapping]]) -> None:
        """`mappings` is asked for the VM's mappings of its file."""
        self.name = cgroup.version
        self._cgroup = cgroup
        self._mappings = mappings

    def reclaim(self, size_bytes: int, *, must: bool) -> None:
        self._cgroup.reclaim(size_bytes)

    def age(self) -> None:
        """All pages of a VM that was loaded were used; the kernel would take them in the order in which they came."""
        for mapping in self._mappings():
            for done in range(0, mapping.length, AGE_STEP_BYTES):
                length = min(AGE_STEP_BYTES, mapping.length - done)
                with contextlib.suppress(OSError):  # of another user, locked, or an older kernel: its own choice then
                    page_out.age(mapping.pid, mapping.start + done, length)

    def resident_bytes(self) -> int:
        """The kernel's own count, with what QEMU has cached of other files. cachestat(2) on the file would look up each
        page that has left as well, which was three quarters of all that the controller did."""
        return self._cgroup.cached_bytes()


class Clock:
    """posix_fadvise(2) with POSIX_FADV_DONTNEED for what nobody has mapped, and where that is not enough
    process_madvise(2) with MADV_PAGEOUT, which takes what is mapped only; both chunk by chunk in turn.

    What read-ahead has brought beside a page is not mapped. It goes first: a page that stays mapped is not faulted
    again, and a fault reads up to 4 MiB where QEMU has advised huge pages.

    A chunk of which much is resident again when its turn comes is in use, and is passed over for a number of rounds
    that doubles each time. `descriptor` is the file's; `mappings` is asked for the VM's mappings of it, and `may_evict`
    before each chunk whether what is clean may leave.
    """

    name = MADVISE

    def __init__(
        self,
        descriptor: int,
        size_bytes: int,
        mappings: Callable[[], Sequence[Mapping]],
        may_evict: Callable[[], bool],
    ) -> None:
        self._descriptor = descriptor
        self._mappings = mappings
        self._may_evict = may_evict
        self._chunk_bytes = CHUNK_BYTES
        while size_bytes > self._chunk_bytes * MAXIMUM_CHUNKS:
            self._chunk_bytes *= 2
        self._chunks = max(-(-size_bytes // self._chunk_bytes), 1)
        self._hand = 0
        self._drop_hand = 0
        self._kept = [0] * self._chunks  # resident bytes that were dropped last time and stayed, as they are mapped
        self._left = [0] * self._chunks  # resident bytes right after the last time; what it had then does not count
        self._skips = [0] * self._chunks  # rounds to pass it over
        self._patience = [1] * self._chunks

    def reclaim(self, size_bytes: int, *, must: bool) -> None:
        size_bytes -= self._drop_unmapped(size_bytes + ROOM_BYTES if must else size_bytes)
        if size_bytes <= 0:
            return
        mappings = self._mappings()
        for count in range(2 * self._chunks if must else self._chunks):
            if size_bytes <= 0:
                return
            number, self._hand = self._hand, (self._hand + 1) % self._chunks
            size_bytes -= self._visit(number, mappings, any_page=count >= self._chunks)

    def age(self) -> None:
        """What comes back is all that counts here."""

    def resident_bytes(self) -> int:
        return resident.of_descriptor(self._descriptor).resident

    def _drop_unmapped(self, size_bytes: int) -> int:
        """Drops about so many bytes that nobody has mapped; returns how many have left. None where a kernel does not
        say what is dirty: the advice starts write-back of that, and stores of the VM would wait for it."""
        dropped_bytes = 0
        if not resident.tells_dirty(self._descriptor):
            return dropped_bytes
        for _ in range(self._chunks):
            if dropped_bytes >= size_bytes:
                break
            number, self._drop_hand = self._drop_hand, (self._drop_hand + 1) % self._chunks
            dropped_bytes += self._drop(number)
        return dropped_bytes

    def _drop(self, number: int) -> int:
        """Drops what nobody has mapped of one chunk; returns how many bytes have left. Not where a page is dirty."""
        offset = number * self._chunk_bytes
        found = resident.of_descriptor(self._descriptor, offset, self._chunk_bytes)
        if found.resident == self._kept[number]:  # to try again would drain the batches of all processors
            return 0
        if found.dirty or found.written_back or not self._may_evict():
            return 0
        os.posix_fadvise(self._descriptor, offset, self._chunk_bytes, os.POSIX_FADV_DONTNEED)
        self._kept[number] = resident.of_descriptor(self._descriptor, offset, self._chunk_bytes).resident
        return found.resident - self._kept[number]

    def _visit(self, number: int, mappings: Sequence[Mapping], *, any_page: bool) -> int:
        """Page out one chunk, if it seems cold; how many bytes have left."""
        if self._skips[number] and not any_page:
            self._skips[number] -= 1
            return 0
        self._kept[number] = 0  # that many may be others by now
        offset = number * self._chunk_bytes
        found = resident.of_descriptor(self._descriptor, offset, self._chunk_bytes)
        if found.dirty or found.written_back or not self._may_evict():
            return 0  # that cannot leave; when it was written back its turn comes again
        if found.resident <= self._left[number]:
            if found.resident:  # it would not leave last time: later perhaps
                self._skips[number], self._left[number] = MAXIMUM_SKIPS, 0
            return 0
        came_back = self._patience[number] > 1 and found.resident - self._left[number] > HOT_SHARE * self._chunk_bytes
        if came_back and not any_page:
            self._skips[number] = self._patience[number]
            self._patience[number] = min(self._patience[number] * 2, MAXIMUM_SKIPS)
            self._left[number] = 0
            return 0
        for mapping in mappings:
            first = max(offset, mapping.offset)
            length = min(offset + self._chunk_bytes, mapping.offset + mapping.length) - first
            if length > 0:
                page_out.page_out(mapping.pid, mapping.start + first - mapping.offset, length)
        self._left[number] = resident.of_descriptor(self._descriptor, offset, self._chunk_bytes).resident
        self._patience[number] = max(self._patience[number], 2)
        return found.resident - self._left[number]


def own_cgroup(pid: int) -> Cgroup:
    """Returns the memory cgroup of a VM, if there is nothing else in it: pages may be taken from it then.

    Raises LookupError with the reason if there is none. A process that the VM's process has started belongs to the VM.
    """
    cgroup = cgroups.of_process(pid)
    try:
        strangers = [other for other in cgroup.pids() if not _descends(other, pid)]
    except OSError as error:
        raise LookupError(f"the processes of its cgroup {cgroup.path} cannot be seen: {error.strerror}") from None
    if strangers:
        count = f"{len(strangers)} other processes" if len(strangers) > 1 else "another process"
        named = f"{mounts.command_of(strangers[0])}, process {strangers[0]}"
        raise LookupError(f"its cgroup {cgroup.path} has {count} too ({named}), whose pages would be taken as well")
    if cgroup.version == V2 and not (cgroup.path / "memory.reclaim").exists():
        raise LookupError(f"its cgroup {cgroup.path} has no memory.reclaim (Linux 5.19 has)")
    if cgroup.version == V2 and not os.access(cgroup.path / "memory.reclaim", os.W_OK):
        raise LookupError(f"this user may not write to {cgroup.path}/memory.reclaim")
    return cgroup


def in_cgroup(attachment: Attachment, cgroup: Cgroup) -> Attachment:
    """Returns the attachment with this cgroup to take pages from, and its limit as it is now. Raises OSError."""
    return attachment._replace(
        cgroup=str(cgroup.path), cgroup_version=cgroup.version, cgroup_limit_bytes=cgroup.limit_bytes()
    )


def _descends(pid: int, ancestor: int) -> bool:
    ancestry: int | None = pid
    while ancestry is not None and ancestry > 1:
        if ancestry == ancestor:
            return True
        ancestry = parent(ancestry)
    return ancestry is None  # it has gone
