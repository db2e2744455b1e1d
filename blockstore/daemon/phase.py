"""What the supervisor of a mount is at, for the command line: the file `daemon.supervisor` of the state directory.

It is there while a supervisor runs. A supervisor that was killed leaves it, so `load` looks whether it lives.
"""

from __future__ import annotations

import contextlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

NAME: Final = "daemon.supervisor"


@dataclass(frozen=True)
class Phase:
    """`name` is starting, serving, waiting (for the next start) or paused; `reason` what the last daemon died of."""

    supervisor_pid: int
    name: str = "starting"
    reason: str = ""

    def save(self, state: Path) -> None:
        """Write it, if there is room: it is only for people."""
        with contextlib.suppress(OSError):
            part = state / f"{NAME}.part"
            part.write_text(json.dumps(asdict(self)))
            part.rename(state / NAME)


def load(state: Path) -> Phase | None:
    """What the supervisor is at; None if there is none, or it is dead."""
    try:
        found = Phase(**json.loads((state / NAME).read_text()))
        command = Path(f"/proc/{found.supervisor_pid}/cmdline").read_bytes().split(b"\0")
    except (OSError, ValueError, TypeError):
        return None
    return found if b"blockstore.daemon.supervisor" in command else None


def forget(state: Path) -> None:
    """The supervisor ends."""
    with contextlib.suppress(OSError):
        (state / NAME).unlink(missing_ok=True)
        (state / f"{NAME}.part").unlink(missing_ok=True)
