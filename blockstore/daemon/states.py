"""State directories, as long as nobody serves them: where they are made, and taking them away."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from blockstore.errors import InputError


def remove_state(state: Path) -> None:
    """Delete a state directory that no daemon holds, file by file."""
    foreign = [entry.name for entry in state.iterdir() if entry.is_dir()]
    for entry in state.iterdir():
        if entry.name not in foreign:
            entry.unlink(missing_ok=True)
    if foreign:
        raise InputError(f"{state} holds a directory that is not blockstore's ({foreign[0]}); remove it yourself")
    state.rmdir()
    with contextlib.suppress(OSError):
        if state.parent.name == default_states().name:
            state.parent.rmdir()


def default_state(mountpoint: Path) -> Path:
    """Returns the one for this mountpoint, which is resolved: its name tells the place, and tells places apart that
    look alike in it."""
    import hashlib  # 5 ms, for those who start and end mounts only

    readable = str(mountpoint).strip("/").replace("/", "-") or "root"
    mark = hashlib.sha256(os.fsencode(mountpoint)).hexdigest()[:8]
    return default_states() / f"{readable[:64]}-{mark}"


def default_states() -> Path:
    """Where state directories are made for mounts that name none: memory, one folder for each user."""
    return Path(f"/dev/shm/blockstore-{os.geteuid()}")
