"""The console of a VM without a terminal: what is typed goes to the guest, what the guest says is printed."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import termios
import tty
from collections.abc import Iterator
from typing import Final

from blockstore.daemon.host.mounts import Mount
from blockstore.errors import InputError, VmError
from blockstore.vm.qemu import qmp_sockets
from blockstore.vm.qemu.running import Running
from blockstore.vm.qemu.sockets import connect, wait_until_read

ESCAPE: Final = b"\x1d"
"""Ctrl-], as virsh(1) and telnet(1) have it: leaves the console."""

QUIET_S: Final = 1.0
"""When all input was sent, the guest's answer has ended when nothing more comes for so long."""

MOST_UNSENT_BYTES: Final = 64 << 10
"""Typed, and not taken by the guest yet."""

_PIECE_BYTES: Final = 4096


def open_console(mount: Mount, vm: Running) -> socket.socket:
    """Returns a connection to the console of a VM. Raises InputError for one that has none, VmError."""
    path = qmp_sockets.path_of(mount.state, qmp_sockets.CONSOLE, vm.volume)
    if not path.exists():
        raise InputError(
            f"{vm.name} has no console here: it has a terminal of its own, or was started without -nographic or "
            "-serial mon:stdio"
        )
    return connect(path, vm.name)


def talk(connection: socket.socket, source: int, target: int, vm: str) -> None:
    """Passes on what is read from `source`, a descriptor, and what the guest says to `target`, until ESCAPE is typed,
    the VM ends, or `source` has ended and the guest has nothing more to say. Raises VmError, OSError.

    Both ways at once: a guest whose words nobody takes may not listen either.
    """
    unsent, has_ended = b"", False
    with _raw(source) as is_terminal:
        while True:
            # A terminal is always read, for the key that leaves; what is too much is dropped.
            takes_more = not has_ended and (is_terminal or len(unsent) < _PIECE_BYTES)
            readers = [connection.fileno()] + ([source] if takes_more else [])
            is_quiet = has_ended and not unsent
            found, ready, _ = select.select(
                readers, [connection.fileno()] if unsent else [], [], QUIET_S if is_quiet else None
            )
            if not found and not ready:
                _leave(connection, vm)
                return
            if connection.fileno() in found:
                try:
                    said = connection.recv(_PIECE_BYTES)
                except ConnectionResetError:  # the VM has ended before QEMU has read all, or let us in
                    return
                if not said:
                    return
                _write(target, said)
            if source in found:
                typed = os.read(source, _PIECE_BYTES)
                before, escape, _ = typed.partition(ESCAPE) if is_terminal else (typed, b"", b"")
                unsent, has_ended = (unsent + before)[:MOST_UNSENT_BYTES], not typed
                if escape:
                    if unsent:
                        _send(connection, unsent, vm)
                    return
            if ready:
                unsent = unsent[_send(connection, unsent, vm) :]


def _send(connection: socket.socket, data: bytes, vm: str) -> int:
    """How much of it the socket has taken."""
    try:
        return connection.send(data)
    except BlockingIOError:
        return 0
    except OSError as error:
        raise VmError(f"{vm} does not take what is typed: {error.strerror or error}; has it ended?") from None


def _leave(connection: socket.socket, vm: str) -> None:
    try:
        wait_until_read(connection, vm)
    except VmError:
        raise VmError(
            f"{vm} has not read all that was sent to its console; is another console open, or does nothing in the "
            "guest read it?"
        ) from None


def _write(target: int, data: bytes) -> None:
    while data:
        data = data[os.write(target, data) :]


@contextlib.contextmanager
def _raw(source: int) -> Iterator[bool]:
    """Has a terminal pass on each key, Ctrl-C too, for the time; yields whether it is one."""
    if not os.isatty(source):
        yield False
        return
    before = termios.tcgetattr(source)
    handlers = {number: signal.signal(number, _interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    tty.setraw(source)
    try:
        yield True
    finally:
        termios.tcsetattr(source, termios.TCSADRAIN, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _interrupt(*_: object) -> None:
    """The terminal is to be as it was, however we end."""
    raise KeyboardInterrupt
