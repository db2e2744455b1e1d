"""What the supervisor of a mount is at, for those who ask: the file `daemon.supervisor` (phase_file.py).

It tells the command line why nobody answers.
"""

from __future__ import annotations

import fcntl
import json
from pathlib import Path
from typing import Final, NamedTuple

from blockstore.daemon.supervise.phase_file import NAME

UNSERVED: Final = ("waiting", "paused")
"""Names of phases in which no daemon runs, and perhaps none will for long."""


class Phase(NamedTuple):
    """`name` is starting, serving, waiting (for the next start) or paused; `reason` what the last daemon died of."""

    supervisor_pid: int
    name: str = "starting"
    reason: str = ""


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
