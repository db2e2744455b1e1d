"""Finds and removes what the tests of one run left: mounts, processes, folders, cgroups, swap.

Other runs may go on beside this one, so only that counts which has this run's word in its name or its environment.
A cgroup has neither. It is this run's when it came meanwhile and the process that made it has died.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from blockstore.daemon.host.memory_limit import places
from blockstore.daemon.host.mounts import mount_lines
from suitelab.identity import VARIABLE

GRACE_S: Final = 10.0
"""How long what is about to end may take: the companion of a VM removes its cgroup within 5 s."""

ROUNDS: Final = 3
"""A supervisor may start another daemon before it is killed."""

_STEP_S: Final = 0.1


class Leftovers:
    """What this run leaves, since this object was made."""

    def __init__(self, run: str) -> None:
        self._run = run
        self._cgroups_before = set(_cgroups())

    def take_away(self, grace_s: float) -> list[str]:
        """Waits for what is about to end, and removes the rest. Returns a line for each thing that was left."""
        deadline_s = time.monotonic() + grace_s
        while self._found() and time.monotonic() < deadline_s:
            time.sleep(_STEP_S)
        left: dict[str, None] = {}
        for _ in range(ROUNDS):
            for text, remove in self._found():
                left[text] = None
                with contextlib.suppress(OSError):
                    remove()
            time.sleep(_STEP_S if left else 0)
        return list(left)

    def _found(self) -> list[tuple[str, Callable[[], object]]]:
        """What there is now: a name, and what removes it. In the order in which it can be removed."""
        found: list[tuple[str, Callable[[], object]]] = []
        for path in self._mounts():
            found.append((f"the mount {path}", partial(_unmount, path)))
        for pid in self._processes():
            found.append((f"process {pid}: {_command(pid)}", partial(_kill, pid)))
        for path in self._folders():
            found.append((f"the folder {path}", partial(_remove, path)))
        for path in left_cgroups():
            if path not in self._cgroups_before:
                found.append((f"the cgroup {path}", path.rmdir))
        return found

    def _mounts(self) -> list[Path]:
        """The last one first."""
        return [line.path for line in reversed(list(mount_lines())) if self._run in str(line.path)]

    def _processes(self) -> list[int]:
        wanted = f"{VARIABLE}={self._run}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and wanted in (entry / "environ").read_bytes().split(b"\0"):
                    found.append(int(entry.name))
        return found

    def _folders(self) -> list[Path]:
        places = {Path("/dev/shm"), Path(tempfile.gettempdir())}
        return sorted(path for place in places if place.is_dir() for path in place.glob(f"blockstore-*{self._run}*"))


def left_cgroups() -> list[Path]:
    """Those whose maker has died. Its companion may be about to remove them, also those of another run."""
    return [path for path in _cgroups() if _is_left(path)]


def _unmount(path: Path) -> None:
    from benchlab import mounts  # it is large, and seldom needed

    mounts.abort(path)


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def _command(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:200]
    return ""


def _remove(path: Path) -> None:
    """A folder of the bench has a list of what was changed on the machine: swap, zram, KSM. It is put back."""
    from benchlab import undo

    undo.put_back(path)
    shutil.rmtree(path, ignore_errors=True)


def _cgroups() -> list[Path]:
    """Those that blockstore.vm.memory.cgroups makes."""
    own = [place.path for place in places("self") if place.path]
    folders = {folder for path in own for folder in (path, path.parent)}
    return sorted(path for folder in folders for path in folder.glob("blockstore-*-*"))


def _is_left(cgroup: Path) -> bool:
    """Its name ends with the process that made it."""
    pid = cgroup.name.rpartition("-")[2]
    try:
        return pid.isdigit() and not Path(f"/proc/{pid}").exists() and not (cgroup / "cgroup.procs").read_text()
    except OSError:
        return False
