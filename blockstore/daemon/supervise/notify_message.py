"""Messages of the service protocol (sd_notify(3)): datagrams of KEY=VALUE lines from a daemon to who started it.

    READY=1 (X_WARNINGS=json)    the mount serves
    X_DEVICE=MAJOR:MINOR         there is a mount, which does not serve yet
    X_ERROR=json                 the start has failed for good: {"error": sentence, "code": exit code}
    WATCHDOG=1                   a beat
    FDSTORE=1 FDNAME=name        keep the descriptor that comes along

notify.py sends them, supervisor.py hears them. Imports nothing (lean.py).
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

FIRST_FD: Final = 3
"""SD_LISTEN_FDS_START: descriptors that were kept have numbers from here on."""

NOTIFY_VARIABLE: Final = "NOTIFY_SOCKET"

RELOAD_EXIT_CODE: Final = 75
"""The daemon asks to be replaced by the code that is installed now."""

WARNINGS_KEY: Final = "X_WARNINGS"
ERROR_KEY: Final = "X_ERROR"
DEVICE_KEY: Final = "X_DEVICE"


def parse(message: bytes) -> dict[str, str]:
    """Returns the values of a message by their keys, JSON as its text. Lines that make no sense are left out."""
    lines = (line.partition("=") for line in message.decode(errors="replace").splitlines())
    return {key: value for key, separator, value in lines if separator}
