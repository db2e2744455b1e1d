"""State that vanishes under the daemon that serves it: told while its files can still be copied out of the mount.

logind deletes what a user has in /dev/shm after the last logout (RemoveIPC=, logind.conf(5)); cleaners of temporary
directories, and people, delete and rename. What a daemon has open lives as long as it does, and no longer: nothing
gives a deleted file a name again (linkat(2)). Reads /proc and the state directory only, never a mount.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, NamedTuple

from blockstore.daemon.host import process_stat

LOOK_S: Final = 5.0
"""How often the daemon looks whether its files are still there."""

ESSENTIAL: Final = (
    *("superblock", "names.sqlite", "pool", "pieces", "domains"),
    *("rows-where", "rows-digest", "rows-reference", "rows-domain", "rows-count", "rows-dependents"),
)
"""Without one of these nothing, or not all, can be mounted again. They are never replaced while a daemon serves."""

_DAEMONS_FILE: Final = "rows-where"
_SUPERVISORS_FILE: Final = "daemon.supervisor"
"""What these two processes have open all the time, which tells where the state is by now."""

_DELETED: Final = " (deleted)"
"""What readlink(2) in /proc/PID/fd puts behind the path that a file had (proc_pid_fd(5))."""

_MOST_NAMES: Final = 5
"""Of missing files, in a sentence."""

LAST_SYSTEM_UID: Final = 999
"""Users up to this one are spared by logind (SYS_UID_MAX, login.defs(5))."""


class Served(NamedTuple):
    """The processes that serve a state; 0 where there is none."""

    daemon_pid: int
    supervisor_pid: int


def find(state: Path, pid: int | str = "self", volumes: Callable[[], Iterable[str]] = tuple) -> str:
    """The sentence about files of the state that are not where this process, its daemon or supervisor, has opened them;
    empty if all are, or if that is not ours to see. `volumes` are further names that must be there."""
    loss = _look(state, pid, volumes)
    return f"{loss.fact}: {loss.advice}" if loss is not None else ""


class _Loss(NamedTuple):
    """What has happened, what to do while the mount is there, and what becomes of it when the mount is ended."""

    fact: str
    advice: str
    end: str


def _look(state: Path, pid: int | str, volumes: Callable[[], Iterable[str]]) -> _Loss | None:
    link = _open_file(pid)
    if not link:
        return None
    place, is_daemon = Path(link.removesuffix(_DELETED)), link.removesuffix(_DELETED).endswith(_DAEMONS_FILE)
    if not _is_same(place.parent, state):
        if link.endswith(_DELETED):
            return _Loss(f"the state directory {state} was deleted under the mount", _outcome(is_daemon), _GONE)
        if not place.parent.is_dir():  # in another mount name space, and perhaps all is well there
            return None
        back = f"mv {place.parent} {state}"
        return _Loss(
            f"the state directory {state} was renamed to {place.parent} under the mount",
            f"the next daemon would not find it; rename it back: {back}",
            f"it stays there, and the next mount would not find it; rename it back: {back}",
        )
    missing = _missing(state, volumes) if is_daemon else []
    if not missing:
        return None
    more = f" and {len(missing) - _MOST_NAMES} more" if len(missing) > _MOST_NAMES else ""
    named = f"{', '.join(missing[:_MOST_NAMES])}{more}"
    return _Loss(f"files of the state {state} were deleted under the mount ({named})", _outcome(is_daemon), _GONE)


_GONE: Final = "what was stored is gone with the mount"


def _outcome(is_daemon: bool) -> str:
    if not is_daemon:
        return "its daemon has died since, and what was stored is lost; end its users, then `blockstore umount --force`"
    return (
        "what is stored lives as long as the daemon, and no longer; copy the files out of the mount while it serves "
        "(cp --sparse=always), then end it with `blockstore umount --force`"
    )


def _missing(state: Path, volumes: Callable[[], Iterable[str]]) -> list[str]:
    """Volumes are made, and deleted, while we look: what is one before and after must have its file meanwhile."""
    before = set(volumes())
    try:
        names = set(os.listdir(state))
    except OSError:  # it has vanished since
        names = set()
    return [name for name in ESSENTIAL if name not in names] + sorted((before & set(volumes())) - names)


def _open_file(pid: int | str) -> str:
    """The link to the file that tells where the state is; empty if there is none, or not ours to see."""
    try:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                link = str(descriptor.readlink())
                if link.removesuffix(_DELETED).endswith((f"/{_DAEMONS_FILE}", f"/{_SUPERVISORS_FILE}")):
                    return link
    except OSError:
        return ""
    return ""


def _is_same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def find_served(state: Path, *, ends: bool = False) -> str:
    """`find` for whoever cannot ask the daemon, because its control socket is deleted, too. To those who have decided
    that the mount `ends` it says what that costs, and advises nothing."""
    found = next((loss for pid in processes(state) if pid and (loss := _look(state, pid, tuple)) is not None), None)
    if found is None:
        return ""
    return f"{found.fact}: {found.end if ends else found.advice}"


def processes(state: Path) -> Served:
    """By their command lines: the file that would tell is in the state directory."""
    found = {b"blockstore.daemon": 0, b"blockstore.daemon.supervise.supervisor": 0}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = process_stat.command(int(entry.name))
            module = next((each for each in command if each in found), b"")
            if module and b"--check" not in command and json.loads(command[-2])["state"] == str(state):
                found[module] = int(entry.name)
        except (ValueError, LookupError, TypeError):
            continue  # another program's
    return Served(*found.values())


def risk(state: Path, uid: int, root: Path = Path("/")) -> str:
    """The sentence for a state that logind will delete when its user logs out; empty if it will not."""
    if uid <= LAST_SYSTEM_UID or not state.is_relative_to("/dev/shm") or not (root / "run/systemd/users").is_dir():
        return ""
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = str(uid)
    if (root / "var/lib/systemd/linger" / name).exists() or not _removes_ipc(root):
        return ""
    return (
        f"logind deletes the state {state} when {name} has logged out (RemoveIPC=, logind.conf(5)), and all is lost "
        f"with the mount then; run `loginctl enable-linger {name}`, or name another directory with --state"
    )


def _removes_ipc(root: Path) -> bool:
    """Is RemoveIPC=, which is on by default, left on? Of several settings one that switches it off is believed."""
    for place in ("usr/lib/systemd", "usr/local/lib/systemd", "run/systemd", "etc/systemd"):
        for file in (root / place / "logind.conf", *sorted((root / place / "logind.conf.d").glob("*.conf"))):
            try:
                text = file.read_text(errors="replace")
            except OSError:
                continue
            if re.search(r"^\s*RemoveIPC\s*=\s*(no|false|off|0|n|f)\s*$", text, re.MULTILINE | re.IGNORECASE):
                return False
    return True
