"""Ports that are kept for one listener that cannot be given a socket, from before it binds until its last restart."""

from __future__ import annotations

import socket
from typing import Final

BUS_OFFSET: Final = 10_000
"""The nodes of a Valkey cluster talk to each other at their port plus this number."""

ATTEMPTS_MAX: Final = 1000


class Port:
    """A port of this machine, `number`, which the kernel gives to nobody who asks for any port while this object lives.

    A socket is bound to it, but does not listen: another one may be bound there if both have SO_REUSEADDR, which
    servers set. With `bus` the port of a cluster's bus is kept as well.
    """

    def __init__(self, *, bus: bool = False) -> None:
        for _ in range(ATTEMPTS_MAX):
            held = _bound(0)
            assert held is not None
            number = int(held.getsockname()[1])
            other = _bound(number + BUS_OFFSET) if bus and number + BUS_OFFSET < 1 << 16 else None
            if other is not None or not bus:
                self.number = number
                self._held = [each for each in (held, other) if each is not None]
                return
            held.close()
        raise OSError("no free port has a free port 10000 above it")

    def close(self) -> None:
        """Let others have it; idempotent."""
        for each in self._held:
            each.close()


def _bound(number: int) -> socket.socket | None:
    """None if somebody has the port."""
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind(("127.0.0.1", number))
    except OSError:
        bound.close()
        return None
    return bound
