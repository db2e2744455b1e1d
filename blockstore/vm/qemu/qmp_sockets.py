"""Sockets of VMs that `run`, `restore` and `fork` have started: QMP, and the console of those without a terminal.

They are in the state directory, by the number of the VM's memory file, which no other file ever has. We make them, and
QEMU gets them as descriptors: a path may be longer than the address of a socket, and nobody has to wait until QEMU has
made them.
"""

from __future__ import annotations

import contextlib
import fcntl
import socket
from pathlib import Path
from typing import Final

from blockstore.daemon.control import client
from blockstore.errors import MountError

QMP: Final = "qmp"
CONSOLE: Final = "console"
KINDS: Final = (QMP, CONSOLE)

_BACKLOG: Final = 4
"""QEMU serves one client at a time; more than a few that wait would wait for ever."""

_FIRST_DESCRIPTOR: Final = 10
"""The shell around QEMU (runner.py) uses smaller ones by itself."""


def path_of(state: Path, kind: str, volume: int) -> Path:
    return state / f"{kind}-{volume}"


def listen(state: Path, kind: str, volume: int) -> int:
    """Make one; the descriptor of it, which a program that is started gets. Raises MountError."""
    path = path_of(state, kind, volume)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        client.at(path, listener.bind)
        path.chmod(0o600)
        listener.listen(_BACKLOG)
        descriptor = fcntl.fcntl(listener.fileno(), fcntl.F_DUPFD, _FIRST_DESCRIPTOR)
    except OSError as error:
        remove(state, volume)
        raise MountError(f"the socket {path} cannot be made: {error.strerror}") from None
    finally:
        listener.close()
    return descriptor


def remove(state: Path, volume: int) -> None:
    """Those of a VM that has ended; idempotent."""
    for kind in KINDS:
        with contextlib.suppress(OSError):
            path_of(state, kind, volume).unlink()
