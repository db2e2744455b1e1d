"""State directories, as long as nobody serves them: where they are made, and taking them away."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import Final

from blockstore.daemon import phase
from blockstore.errors import InputError
from blockstore.store.home import LOCK_NAME

_LOCKS: Final = (LOCK_NAME, phase.NAME)
"""Files whose locks keep a second daemon, and a second supervisor, from using the state."""


def remove_state(state: Path) -> None:
    """Delete a state directory that no daemon holds, file by file; the locks go last, so that no mount begins with what
    is left until then. One that begins afterwards keeps the directory. Raises InputError."""
    entries = list(state.iterdir())
    foreign = [entry.name for entry in entries if entry.is_dir()]
    for entry in sorted(entries, key=lambda entry: _LOCKS.index(entry.name) if entry.name in _LOCKS else -1):
        if entry.name not in foreign:
            entry.unlink(missing_ok=True)
    if foreign:
        raise InputError(f"{state} holds a directory that is not blockstore's ({foreign[0]}); remove it yourself")
    try:
        state.rmdir()
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
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


def check_default_states(state: Path) -> None:
    """Raises InputError for a state in the folder of `default_states` if another user has made that, as anybody may in
    /dev/shm, or may write to it: links in the place of a state's files would have us write to any file of ours."""
    states = default_states()
    if state.parent != states:
        return
    found = states.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & stat.S_IWOTH:
        raise InputError(
            f"{states}, where states are by default, is not a folder that only its owner, user {os.geteuid()}, may "
            "write to; remove it, or name a state directory elsewhere with --state"
        )
