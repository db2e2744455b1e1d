"""What a mount costs beside what it stores: the memory of its processes, and the small files of its state."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from blockstore.store.state.home import SECTOR_BYTES

PARTS: Final = ("daemon", "supervisor", "controller", "files")


def take(supervisor_pid: int | None, controller_pid: int | None, state: Path) -> dict[str, int]:
    """Bytes by PARTS. `files` are names, log and the like; what the store keeps is counted by itself (census.py)."""
    return {
        "daemon": process_bytes("self"),
        "supervisor": process_bytes(supervisor_pid) if supervisor_pid is not None and _is_ours(supervisor_pid) else 0,
        "controller": process_bytes(controller_pid) if controller_pid is not None else 0,
        "files": _files_bytes(state),
    }


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
