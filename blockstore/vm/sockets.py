"""Connecting to the sockets of VMs."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Final

from blockstore.daemon import control
from blockstore.errors import VmError

CONNECT_S: Final = 10.0
"""QEMU lets one client in at a time, and a few more wait; when it is full, that is waited for."""


def connect(path: Path, vm: str) -> socket.socket:
    """A connection to a listening socket, whose path may be longer than a socket's address. Raises VmError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    connection.settimeout(CONNECT_S)
    try:
        control.at(path, connection.connect)
    except OSError as error:
        connection.close()
        raise VmError(f"the QEMU of {vm} cannot be reached at {path}: {error.strerror or error}") from None
    connection.setblocking(False)
    return connection
