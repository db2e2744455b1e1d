"""What the supervisor says of itself in the file `daemon.supervisor` of the state directory; phase.py reads it.

Its lock says that the state has a supervisor: there is one at most, whether a daemon runs or not. It is written in
place and fits on one page, so that a full file system does not matter. Imports next to nothing (lean.py).
"""

from __future__ import annotations

import fcntl
import os

from blockstore.errors import MountError, state_in_use
from blockstore.printable import in_json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

NAME: Final = "daemon.supervisor"

SIZE_BYTES: Final = 4096
"""Of the file; what there is to say is shorter, and padded."""

REASON_CHARACTERS: Final = 600
"""Of what a daemon died of; half as many where each takes twelve bytes in JSON, and 600 would not fit."""

_REASON_BYTES: Final = 3800
"""Beside the other fields and their names."""


class PhaseFile:
    """The supervisor's own, locked. Raises BusyError when another supervisor has it, MountError if it cannot be had."""

    def __init__(self, state: str) -> None:
        path = f"{state}/{NAME}"
        try:
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise MountError(f"{path} cannot be opened: {error.strerror}") from None
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._fd)
            raise state_in_use(state) from None

    def say(self, supervisor_pid: int, name: str, reason: str = "") -> None:
        """Tells people; if there is no room for the file yet, they are not told. The fields are those of phase.Phase;
        of the reason so much is told that it fits."""
        shown = in_json(reason[:REASON_CHARACTERS])
        if len(shown) > _REASON_BYTES:
            shown = in_json(reason[: REASON_CHARACTERS // 2])
        text = f'{{"supervisor_pid": {supervisor_pid}, "name": {in_json(name)}, "reason": {shown}}}'
        try:
            os.pwrite(self._fd, text.encode().ljust(SIZE_BYTES), 0)
        except OSError:
            return

    def close(self) -> None:
        """The supervisor ends; the file stays, and says nothing."""
        try:
            os.ftruncate(self._fd, 0)
        except OSError:
            pass
        finally:
            os.close(self._fd)
