"""What the supervisor of a mount is at: the file `daemon.supervisor` of the state directory.

It tells the command line why nobody answers, and its lock says that the state has a supervisor: there is one at most,
whether a daemon runs or not. It is written in place and fits on one page, so that a full file system does not matter.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
from pathlib import Path
from typing import Final, NamedTuple

from blockstore.errors import MountError, state_in_use

NAME: Final = "daemon.supervisor"

SIZE_BYTES: Final = 4096
"""Of the file; what there is to say is shorter, and padded."""

UNSERVED: Final = ("waiting", "paused")
"""Names of phases in which no daemon runs, and perhaps none will for long."""

_REASON_CHARACTERS: Final = 600


class Phase(NamedTuple):
    """`name` is starting, serving, waiting (for the next start) or paused; `reason` what the last daemon died of."""

    supervisor_pid: int
    name: str = "starting"
    reason: str = ""


class PhaseFile:
    """The supervisor's own, locked. Raises BusyError when another supervisor has it, MountError if it cannot be had."""

    def __init__(self, state: Path) -> None:
        try:
            self._fd = os.open(state / NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise MountError(f"{state / NAME} cannot be opened: {error.strerror}") from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._fd)
            raise state_in_use(str(state)) from None

    def say(self, phase: Phase) -> None:
        """Tell people; if there is no room for the file yet, they are not told."""
        with contextlib.suppress(OSError):
            os.pwrite(self._fd, json.dumps(phase._asdict()).encode().ljust(SIZE_BYTES), 0)

    def close(self) -> None:
        """The supervisor ends; the file stays, and says nothing."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, 0)
        os.close(self._fd)


def of(pid: int, name: str, reason: str) -> Phase:
    """A phase that fits into the file, whatever the reason."""
    return Phase(pid, name, reason[:_REASON_CHARACTERS])


def load(state: Path) -> Phase | None:
    """What the supervisor is at; None if there is none, or it is dead."""
    try:
        with (state / NAME).open("rb") as file:
            if _lock_is_free(file.fileno()):
                return None
            return Phase(**json.loads(file.read()))
    except (OSError, ValueError, TypeError):
        return None


def _lock_is_free(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    fcntl.flock(fd, fcntl.LOCK_UN)
    return True
