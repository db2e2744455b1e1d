"""Connecting to the sockets of VMs."""

from __future__ import annotations

import fcntl
import socket
import sys
import termios
import time
from pathlib import Path
from typing import Final

from blockstore.daemon.control import client
from blockstore.errors import VmError

CONNECT_S: Final = 10.0
"""QEMU lets one client in at a time, and a few more wait; when it is full, that is waited for."""


READ_S: Final = 10.0
"""How long a guest may take to read what was written to its console: a line takes milliseconds."""

_LOOK_S: Final = 0.005


def wait_until_read(connection: socket.socket, vm: str) -> None:
    """Wait until the QEMU of `vm` has read all that was written. It reads no faster than its guest takes it, and
    forgets the rest when we hang up. Raises VmError. (unix(7): SIOCOUTQ, which is TIOCOUTQ)"""
    deadline = time.monotonic() + READ_S
    while int.from_bytes(fcntl.ioctl(connection, termios.TIOCOUTQ, bytes(4)), sys.byteorder):
        if time.monotonic() > deadline:
            raise VmError(
                f"{vm} did not read what was written to its console within {READ_S:g} s; does anything in it read "
                "the serial console? a hook that has nothing to say to it must write elsewhere: >&2"
            )
        time.sleep(_LOOK_S)


def connect(path: Path, vm: str) -> socket.socket:
    """A connection to a listening socket, whose path may be longer than a socket's address. Raises VmError."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    connection.settimeout(CONNECT_S)
    try:
        client.at(path, connection.connect)
    except OSError as error:
        connection.close()
        raise VmError(f"the QEMU of {vm} cannot be reached at {path}: {error.strerror or error}") from None
    connection.setblocking(False)
    return connection
