"""Consoles are not hung up on before the other end has read what was written."""

from __future__ import annotations

import socket
import threading

import pytest

from blockstore.errors import VmError
from blockstore.vm.qemu import sockets


def test_what_was_written_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        sockets.wait_until_read(ours, "vm1")
        ours.sendall(b"a line that is longer than what a serial port takes at once\n")
        with monkeypatch.context() as patch:
            patch.setattr(sockets, "READ_S", 0.05)
            with pytest.raises(VmError, match="vm1 did not read"):
                sockets.wait_until_read(ours, "vm1")
        reading = threading.Timer(0.05, lambda: theirs.recv(4096))
        reading.start()
        sockets.wait_until_read(ours, "vm1")
        reading.join()
        theirs.setblocking(False)
        with pytest.raises(BlockingIOError):
            theirs.recv(1)
