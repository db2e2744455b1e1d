"""State directories, as long as nobody serves them: where they are made, and taking them away."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from pathlib import Path
from typing import Final

from blockstore.daemon.supervise import phase_file
from blockstore.errors import InputError
from blockstore.store.state.home import LOCK_NAME

_LOCKS: Final = (LOCK_NAME, phase_file.NAME)
"""Files whose locks keep a second daemon, and a second supervisor, from using the state."""

STATE_FILES: Final = re.compile(
    r"superblock|lock|control|pool|pieces|domains|arrivals|sources(\.new)?|spill|content-index|similarity-(rows|tags)"
    r"|rows-[a-z]+|volume-\d+|dictionary-\d+-\d+|names\.sqlite(-wal|-shm|-journal)?|(qmp|console)-\d+|\.?working-set-\d+(\.\d+)?"
    r"|daemon\.[a-z.\d]+"
)
"""All files that a state has. A new one that is not named here is left when the state is deleted, and
tests/daemon/state/test_states.py fails."""

_NAMED: Final = 5
"""Of the files that are left, so many are named."""


def remove_state(state: Path) -> None:
    """Deletes a state directory that no daemon holds, file by file; the locks go last, so that no mount begins with
    what is left until then. One that begins afterwards keeps the directory. Files and directories that no state has are
    left, and named. Raises InputError."""
    entries = list(state.iterdir())
    foreign = sorted(entry.name for entry in entries if not _is_ours(entry))
    for entry in sorted(entries, key=lambda entry: _LOCKS.index(entry.name) if entry.name in _LOCKS else -1):
        if entry.name not in foreign:
            entry.unlink(missing_ok=True)
    if foreign:
        names = ", ".join(foreign[:_NAMED]) + (f" and {len(foreign) - _NAMED} more" if len(foreign) > _NAMED else "")
        raise InputError(f"{state} holds what is not blockstore's, and is left ({names}); remove it yourself")
    try:
        state.rmdir()
    except OSError as error:
        if error.errno != errno.ENOTEMPTY:
            raise
    with contextlib.suppress(OSError):
        if state.parent.name == default_states().name:
            state.parent.rmdir()


def _is_ours(entry: Path) -> bool:
    return STATE_FILES.fullmatch(entry.name) is not None and (entry.is_symlink() or not entry.is_dir())


def check_owner(state: Path) -> None:
    """Raises InputError for a directory that is another user's, unless we are root: that user could change what is
    stored, or put anything in its place. One that is not there is nobody's."""
    try:
        owner = state.stat().st_uid
    except OSError:  # to be told by those who use it
        return
    if os.geteuid() not in (0, owner):
        raise InputError(
            f"the state directory {state} belongs to another user ({owner}); run this as that user, or as root"
        )


def check_links(state: Path) -> None:
    """Raises InputError for a directory with symbolic links in it: no state has any, and what is written to one comes
    to the file that it leads to. Raises OSError."""
    links = sorted(entry.name for entry in state.iterdir() if entry.is_symlink())
    if links:
        raise InputError(f"the state directory {state} has a symbolic link in it ({links[0]}); remove that")


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
