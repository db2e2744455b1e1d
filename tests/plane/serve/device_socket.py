"""A socket in the place of /dev/fuse: the kernel's end sends requests and receives answers, one message each."""

from __future__ import annotations

import select
import socket
from typing import Final

from blockstore.daemon.fuse import fuse_abi as abi

PATIENCE_S: Final = 60
"""How long a test waits for an answer that must come."""

LARGEST_ANSWER_BYTES: Final = 1 << 21


def device_and_kernel() -> tuple[socket.socket, socket.socket]:
    """Returns our end, which blocks as /dev/fuse does, and the kernel's, which waits for PATIENCE_S at most."""
    ours, kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (ours, kernel):
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * LARGEST_ANSWER_BYTES)
    kernel.settimeout(PATIENCE_S)
    return ours, kernel


def request(opcode: int, unique: int, number: int, body: bytes, tid: int = 0) -> bytes:
    """Returns a request of the kernel on the file with this number, in one message."""
    header = (abi.IN_HEADER.size + len(body), opcode, unique, number, 0, 0, tid, 0, 0)
    return abi.IN_HEADER.pack(*header) + body


def is_readable(end: socket.socket, timeout_ms: int) -> bool:
    """Returns whether something can be received, after waiting for it for so long at most.

    The descriptor may have any number, which select(2) does not take.
    """
    poll = select.poll()
    poll.register(end, select.POLLIN)
    return bool(poll.poll(timeout_ms))
