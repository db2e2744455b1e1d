"""What a mount costs beside what it stores: the memory of its processes, and the small files of its state."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final, NamedTuple

from blockstore.daemon.host.process_stat import processor_s
from blockstore.store.state.home import SECTOR_BYTES

PROCESSES: Final = ("daemon", "supervisor", "controller")
PARTS: Final = (*PROCESSES, "files")


class Process(NamedTuple):
    """`memory` is in bytes; `processor_s` is processor time of all its threads since it began."""

    pid: int
    memory: int
    processor_s: float


class Bill(NamedTuple):
    """`files` are names, log and the like; what the store keeps is counted by itself (census.py)."""

    processes: dict[str, Process]
    files: int

    @property
    def memory(self) -> dict[str, int]:
        """Bytes by PARTS; 0 for a process that does not run."""
        parts = {name: self.processes[name].memory if name in self.processes else 0 for name in PROCESSES}
        return {**parts, "files": self.files}


def take(supervisor_pid: int | None, controller_pid: int | None, state: Path) -> Bill:
    """Returns what our own process, the other two if they run, and the small files in the state directory take."""
    if supervisor_pid is not None and not _is_ours(supervisor_pid):
        supervisor_pid = None
    pids = dict(zip(PROCESSES, (os.getpid(), supervisor_pid, controller_pid), strict=True))
    processes = {
        name: Process(pid, process_bytes(pid), processor_s(pid)) for name, pid in pids.items() if pid is not None
    }
    return Bill(processes, _files_bytes(state))


def process_bytes(pid: int | str) -> int:
    """Memory of a process without the state's files, which it has mapped: its heap, and its part of programs and
    libraries (proc_pid_smaps(5)). 0 if it has ended, or is not ours to see."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    figures = dict(line.split(":", 1) for line in text.splitlines()[1:] if ":" in line)
    return sum(int(figures[key].split()[0]) << 10 for key in ("Pss_Anon", "Pss_File") if key in figures)


def _is_ours(pid: int) -> bool:
    """And not systemd, whose memory others pay for."""
    try:
        return b"blockstore" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False


def _files_bytes(state: Path) -> int:
    found = 0
    for entry in state.iterdir():
        if entry.name.startswith(("daemon.", "names.sqlite")):
            try:
                found += entry.stat().st_blocks * SECTOR_BYTES
            except FileNotFoundError:
                continue
    return found
