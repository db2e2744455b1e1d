"""What /proc says of a process: fields of /proc/PID/stat (proc_pid_stat(5)), and its command line.

The name among those fields may be cut within a character.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

_PARENT, _USER_TICKS, _SYSTEM_TICKS, _STARTED = 1, 11, 12, 19
"""Places among the fields behind the name."""

_NAME_END: Final = b")"


def start_time(pid: int) -> int | None:
    """When a process was started, in clock ticks since the machine's start; None if it has ended."""
    return _field(pid, _STARTED)


def parent(pid: int) -> int | None:
    """The process that it is a child of; None if it has ended."""
    return _field(pid, _PARENT)


def processor_s(pid: int) -> float:
    """Processor time that it has taken, all threads; 0 if it has ended."""
    fields = _fields(pid)
    return (int(fields[_USER_TICKS]) + int(fields[_SYSTEM_TICKS])) / os.sysconf("SC_CLK_TCK") if fields else 0.0


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
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(_NAME_END)[2].split()
    except OSError:
        return []
