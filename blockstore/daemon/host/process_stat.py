"""What /proc says of a process: fields of /proc/PID/stat (proc_pid_stat(5)), and its command line.

The name among those fields may be cut within a character.
"""

from __future__ import annotations

import os
import select
from pathlib import Path
from typing import Final

_PARENT, _USER_TICKS, _SYSTEM_TICKS, _STARTED, _CORE = 1, 11, 12, 19, 36
"""Places among the fields behind the name."""

_NAME_END: Final = b")"

_STAT_BYTES: Final = 4096
"""More than its 52 fields can take; the kernel gives all of them to one read(2)."""


def start_time(pid: int) -> int | None:
    """When a process was started, in clock ticks since the machine's start; None if it has ended."""
    return _field(pid, _STARTED)


def parent(pid: int) -> int | None:
    """The process that it is a child of; None if it has ended."""
    return _field(pid, _PARENT)


def parent_and_core(tid: int) -> tuple[int, int] | None:
    """Returns the parent of a thread's process, and the core on which the thread ran last; None if it has ended.

    The lane asks this on its hot path (lane_core.py).
    """
    fields = _fields(tid)
    return (int(fields[_PARENT]), int(fields[_CORE])) if fields else None


def processor_s(pid: int) -> float:
    """Processor time that it has taken, all threads; 0 if it has ended."""
    fields = _fields(pid)
    return (int(fields[_USER_TICKS]) + int(fields[_SYSTEM_TICKS])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


def has_ended(pidfd: int, timeout_s: float | None = 0.0) -> bool:
    """Returns whether a process ends within the time, None being for ever. Not by select(2), which knows a thousand
    descriptors only."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(None if timeout_s is None else timeout_s * 1000))


def children(pid: int) -> list[int]:
    """Its child processes; none if it has ended."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def command(pid: int) -> list[bytes]:
    """Returns the arguments of its command line; none if it has ended, or is its parent's copy on the way to exec.

    Between fork and execve a child has its parent's command line (with vfork(2), which subprocess uses, its memory).
    """
    line = _command_line(pid)
    return line.split(b"\0") if line and line != _command_line(parent(pid) or 0) else []


def _command_line(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def _field(pid: int, place: int) -> int | None:
    fields = _fields(pid)
    return int(fields[place]) if fields else None


def _fields(pid: int) -> list[bytes]:
    """Those behind the name; none if it has ended."""
    try:
        stat = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)  # half of what Path.read_bytes takes
    except OSError:
        return []
    try:
        return os.read(stat, _STAT_BYTES).rpartition(_NAME_END)[2].split()
    except OSError:
        return []
    finally:
        os.close(stat)
