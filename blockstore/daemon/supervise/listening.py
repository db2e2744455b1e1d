"""Taking a port to listen at: by address, by name, or on all addresses of this machine."""

from __future__ import annotations

import socket
from errno import EADDRNOTAVAIL, EAFNOSUPPORT
from typing import Final

from blockstore.errors import MountError

BACKLOG: Final = 16
"""Clients that may wait."""

_NOT_HERE: Final = (EADDRNOTAVAIL, EAFNOSUPPORT)
"""A name may have addresses that this machine lacks (`localhost` without IPv6)."""


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens; an empty host is all addresses. Raises MountError when it is not to be had.

    A name has to be resolved, which may take its time.
    """
    try:
        if not host and socket.has_dualstack_ipv6():
            return _at(socket.AF_INET6, ("::", port))
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # IPv4 first: who scrapes `localhost` tries that in any case.
        places = sorted(found, key=lambda place: place[0] != socket.AF_INET)
        for family, _, _, _, address in places[:-1]:
            try:
                return _at(family, address)
            except OSError as error:
                if error.errno not in _NOT_HERE:
                    raise
        return _at(places[-1][0], places[-1][4])
    except (OSError, UnicodeError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise MountError(
            f"the metrics cannot be served at {written(host, port)}: {reason}; name another with --metrics"
        ) from None


def written(host: str, port: int) -> str:
    """As people write it."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _at(family: int, address: tuple[str | int, ...] | tuple[int, bytes]) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:  # without IPv4, but for "all addresses"
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int(address[0] != "::"))
        listener.bind(address)
        listener.listen(BACKLOG)
    except BaseException:
        listener.close()
        raise
    return listener
