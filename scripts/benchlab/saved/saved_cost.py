"""What guests touched, and what their host pays for it, read from the kernel: smaps, page tables, memory cgroups."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

from benchlab.errors import BenchError
from blockstore.daemon.host.memory_limit import V1
from blockstore.vm.memory.cgroups import Cgroup

_QEMU: Final = "qemu-system"

_LEAST_BYTES: Final = 4 << 20
_STEP_BYTES: Final = 8 << 20
"""The kernel gives up when it cannot take so much at once."""

_NEAR_BYTES: Final = 8 << 20
_WAY: Final = 0.6
"""Of the excess; when it is near, all."""


class Mapped(NamedTuple):
    """Of one mapping, or of several together, in bytes (proc_pid_smaps(5))."""

    rss: int
    pss: int
    """A page that is mapped n times counts 1/n for each."""
    swap: int
    swap_pss: int
    """The same for what is swapped out."""


@dataclass(frozen=True)
class Sample:
    """One look at all guests of a set. `parts` adds up to what they cost."""

    seconds: float
    touched: int
    parts: Mapping[str, int]
    residents: Mapping[str, int]
    """By guest."""

    @property
    def cost(self) -> int:
        return sum(self.parts.values())

    @property
    def saved(self) -> float:
        """A fraction, negative where it costs more than it saves."""
        return 1 - self.cost / self.touched if self.touched else 0.0

    def as_json(self) -> dict[str, Any]:
        return {
            "seconds": round(self.seconds, 1),
            "touched": self.touched,
            "cost": self.cost,
            "saved": round(self.saved, 4),
            "parts": dict(self.parts),
        }


def guest_memory(smaps: str, size_bytes: int) -> Mapped:
    """Of the anonymous mapping of that size, which is the guest's memory. Raises BenchError."""
    found: list[Mapped] = []
    fields: dict[str, int] = {}
    is_it = False
    for line in [*smaps.splitlines(), "0-0 end"]:
        first, *rest = line.split()
        if not first.endswith(":"):
            if is_it:
                found.append(Mapped(*(fields.get(key, 0) for key in ("Rss", "Pss", "Swap", "SwapPss"))))
            start, _, end = first.partition("-")
            anonymous = len(rest) == 4 and rest[0] == "rw-p"  # permissions, offset, device, inode, and no path
            fields, is_it = {}, anonymous and int(end, 16) - int(start, 16) == size_bytes
        elif len(rest) == 2 and rest[1] == "kB":
            fields[first[:-1]] = int(rest[0]) << 10
    if len(found) != 1:
        raise BenchError(f"a guest's memory is one mapping of {size_bytes} bytes; {len(found)} were found")
    return found[0]


def of_guest(pid: int, size_bytes: int) -> Mapped:
    """The same of a QEMU process. Raises BenchError."""
    try:
        return guest_memory(Path(f"/proc/{pid}/smaps").read_text(errors="replace"), size_bytes)
    except OSError as error:
        raise BenchError(f"QEMU {pid} has ended while it was looked at") from error


def swapped_bytes(pid: int) -> int:
    """All of a process that is swapped out, its part of what others share."""
    return _kilobytes(Path(f"/proc/{pid}/smaps_rollup"), "SwapPss")


def page_table_bytes(pid: int) -> int:
    """VmPTE of a process (proc_pid_status(5))."""
    return _kilobytes(Path(f"/proc/{pid}/status"), "VmPTE")


def qemu_of(pid: int) -> int:
    """The QEMU that a process is, or has started. Raises BenchError."""
    waiting = [pid]
    while waiting:
        each = waiting.pop()
        with contextlib.suppress(OSError):
            if Path(f"/proc/{each}/comm").read_text().startswith(_QEMU):
                return each
            waiting += [int(child) for child in Path(f"/proc/{each}/task/{each}/children").read_text().split()]
    raise BenchError(f"process {pid} has no QEMU")


def hold(cgroup: Cgroup, guest_bytes: int, wanted_bytes: int) -> None:
    """Move the limit of a guest's cgroup towards where `wanted_bytes` of the guest's memory stay resident, of which
    there are `guest_bytes` now; ask again after the next look. Raises OSError.

    Whatever else is charged to the cgroup, QEMU's own heap above all, has its room beside them. Only a part of the way
    at once: the kernel takes from that too, and a page that KSM has merged is charged to one of those who have it.
    """
    file = cgroup.path / ("memory.limit_in_bytes" if cgroup.version == V1 else "memory.high")
    charged = cgroup.charged_bytes()
    excess = guest_bytes - max(wanted_bytes, _LEAST_BYTES)
    goal = charged - (int(excess * _WAY) if excess > _NEAR_BYTES else excess)
    while charged > goal + _STEP_BYTES:
        try:
            file.write_text(str(charged - _STEP_BYTES))
        except OSError:  # EBUSY: no more for now
            return
        if (after := cgroup.charged_bytes()) >= charged:
            return
        charged = after
    with contextlib.suppress(OSError):
        file.write_text(str(max(goal, _LEAST_BYTES)))


def _kilobytes(path: Path, key: str) -> int:
    try:
        lines = path.read_text(errors="replace").splitlines()
    except OSError as error:
        raise BenchError(f"{path.parent.name} has ended while it was looked at") from error
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith(f"{key}:")), 0)
