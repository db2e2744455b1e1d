"""The way between /dev/fuse and pyfuse3 for everything that the lane does not answer itself.

pyfuse3 holds one end of a SOCK_SEQPACKET pair where it believes the device to be (docs/decisions.md, "The lane").
Requests are sent into it by the lane; a thread of this module takes the answers back to the device.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import mmap
import os
import socket
import struct
import threading
from collections.abc import Callable
from typing import Final

from blockstore.daemon.fuse.device import Device
from blockstore.daemon.fuse.fuse_abi import (
    ASYNC_DIO,
    ASYNC_READ,
    AUTO_INVAL_DATA,
    BATCH_FORGET,
    BATCH_FORGET_IN,
    CREATE,
    ENTRY_OUT_BYTES,
    FORGET,
    FORGET_ONE_BYTES,
    HEAD_BYTES,
    IN_HEADER,
    INIT,
    INIT_IN,
    INIT_OUT,
    MAXIMUM_WRITE_BYTES,
    OPEN,
    OPEN_NOFLUSH,
    OPEN_OUT,
    OUT_HEADER,
    PAGE_BYTES,
    PID_OFFSET,
    SPLICE_FLAGS,
    UNIQUE_OFFSET,
    UNIQUE_RESEND,
)
from blockstore.daemon.host.mounts import READ_AHEAD_BYTES
from blockstore.store.state.untouched import untouched

log = logging.getLogger(__name__)

SOCKET_BUFFER_BYTES: Final = 2 * MAXIMUM_WRITE_BYTES
"""A message must fit whole. Without CAP_NET_ADMIN the kernel gives less; READDIR answers, the largest, still fit."""

FORGETS_AT_ONCE: Final = 512
"""The kernel puts up to 65,000 forgets into one request, more than a socket message may hold: they are split."""

MAXIMUM_BACKGROUND: Final = 24
CONGESTION_THRESHOLD: Final = 18
"""Write-back requests under way at once, and from how many on the kernel holds back. Each keeps up to 1 MiB of pages
that a VM cannot write to meanwhile. Fewer than
MAXIMUM_JOBS (jobs.py), so that they never keep the lane from reading on."""

TICKET_RESENT: Final = 1 << 30
"""In a ticket: the request was asked before, of a daemon that died and may have done it."""

HARMFUL: Final = AUTO_INVAL_DATA | ASYNC_READ | ASYNC_DIO
"""With the first a changed mtime makes the kernel drop the pages of a running VM, and whoever looks at the file, or
lists the directory, which is locked meanwhile, waits for those that are written back: for ever where that waits for
room, which somebody would make who deletes a file there. With the other two read-ahead and direct I/O are background
requests: they wait for each other's and write-back's places; and whoever waits for direct I/O cannot be killed."""

_TICKET_NUMBER: Final = TICKET_RESENT - 1
_TICKET: Final = struct.Struct("<I")
_UNIQUE: Final = struct.Struct("<Q")

_INIT_REPLAYED: Final = 1
"""The unique number of an INIT that the kernel has not sent: its own are even."""


class Relay:
    """Both directions. `forward` and `forward_init` are called by the lane's thread only.

    pyfuse3 does not tell the operations which request they serve. So each request carries a *ticket* in the place of
    the asking process's number, which nobody needs: the low bits of the request's unique number, the same when it is
    resent, and TICKET_RESENT if it is.
    """

    def __init__(self, device: Device, died: Callable[[], None]) -> None:
        """`died` is called, in the thread, when it ends by an error."""
        self.device = device
        self._died = died
        self._ours, self._theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for end in (self._ours, self._theirs):
            try:
                end.setsockopt(socket.SOL_SOCKET, 32, SOCKET_BUFFER_BYTES)  # SO_SNDBUFFORCE
            except PermissionError:
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BUFFER_BYTES)
        self.unanswered: dict[int, int] = {}
        """The opcode of each request that pyfuse3 has not answered yet, by its unique number."""
        self.closed = False
        self._thread = threading.Thread(target=self._run, name="relay", daemon=True)

    def start(self, session_fd: int) -> None:
        """Put pyfuse3's end in the place of the descriptor that it reads requests from."""
        os.dup2(self._theirs.fileno(), session_fd)
        self._theirs.close()
        self._thread.start()

    def lend(self) -> int:
        """pyfuse3's end, for a session that has never had a device; call `start` with it then."""
        return os.dup(self._theirs.fileno())

    def forward(self, opcode: int, unique: int, request: bytearray) -> None:
        """Hand a whole request to pyfuse3. Blocks while pyfuse3 has a full socket of requests to do. Raises OSError."""
        if opcode == BATCH_FORGET:
            for part in _split_forgets(request):
                self._ours.send(part)
            return
        if opcode != FORGET:  # which has no answer
            self.unanswered[unique] = opcode
        _TICKET.pack_into(request, PID_OFFSET, ticket_of(unique))
        try:
            self._ours.send(request)
        except OSError:
            self.unanswered.pop(unique, None)
            raise

    def replay_init(self, request: bytes) -> None:
        """Tell pyfuse3 what the kernel told another daemon's; its answer is for nobody. Before the lane starts."""
        self.forward_init(_INIT_REPLAYED, bytearray(request))

    def forward_init(self, unique: int, request: bytearray) -> None:
        """INIT, without the capabilities that do not work through a socket or hurt mapped files."""
        _offer_less(request, HARMFUL | SPLICE_FLAGS)
        _UNIQUE.pack_into(request, UNIQUE_OFFSET, unique)
        self.unanswered[unique] = INIT
        self._ours.send(request)

    def close(self) -> None:
        """End the thread; pyfuse3 sees the end of its requests. What is asked from now on is refused by the lane."""
        self.closed = True
        with contextlib.suppress(OSError):
            self._ours.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._ours.close()

    def _run(self) -> None:
        try:
            self._take_answers()
        except BaseException:
            log.critical("the relay ended by an error", exc_info=True)
            self._died()

    def _take_answers(self) -> None:
        buffer = untouched(HEAD_BYTES + SOCKET_BUFFER_BYTES)
        view = memoryview(buffer)
        while True:
            try:
                size = self._ours.recv_into(buffer)
            except OSError:
                return
            if not size:
                return
            _, error, unique = OUT_HEADER.unpack_from(buffer)
            opcode = self.unanswered.pop(unique, 0)
            if unique == _INIT_REPLAYED and opcode == INIT:
                continue
            if not error:
                _edit_answer(opcode, buffer, self.device.maximum_write_bytes)
            try:
                os.write(self.device.descriptor, view[:size])
            except OSError as failure:
                # ENOENT: the request was interrupted meanwhile; ENODEV: the mount is gone. Both are no news.
                if failure.errno not in (errno.ENOENT, errno.ENODEV):
                    log.error("an answer of %d bytes was refused by the kernel: %s", size, failure.strerror)


def ticket_of(unique: int) -> int:
    """What stands for this request in the operations' `ctx.pid`."""
    return unique >> 1 & _TICKET_NUMBER | (TICKET_RESENT if unique & UNIQUE_RESEND else 0)


def _offer_less(request: bytearray, flags_less: int) -> None:
    """Take these flags out of what the kernel offers in an INIT request."""
    opcode = IN_HEADER.unpack_from(request)[1]
    assert opcode == INIT, opcode
    major, minor, max_readahead, flags = INIT_IN.unpack_from(request, IN_HEADER.size)
    INIT_IN.pack_into(request, IN_HEADER.size, major, minor, max_readahead, flags & ~flags_less)


def _edit_answer(opcode: int, buffer: mmap.mmap, maximum_write_bytes: int) -> None:
    """What pyfuse3 has no words for."""
    if opcode == INIT:
        _edit_init_answer(buffer, maximum_write_bytes)
    elif opcode == OPEN:
        _do_not_flush(buffer, OUT_HEADER.size)
    elif opcode == CREATE:
        _do_not_flush(buffer, OUT_HEADER.size + ENTRY_OUT_BYTES)


def _do_not_flush(buffer: mmap.mmap, offset: int) -> None:
    """Without this close(2) writes back all that anybody has changed in the file, and waits: `status` would stop a
    VM that dirties its memory, and would hang while the pool is full. The kernel ignores it together with
    FUSE_WRITEBACK_CACHE, which is therefore not asked for (docs/decisions.md, "No write-back cache for write(2)")."""
    fh, flags, padding = OPEN_OUT.unpack_from(buffer, offset)
    OPEN_OUT.pack_into(buffer, offset, fh, flags | OPEN_NOFLUSH, padding)


def _edit_init_answer(buffer: mmap.mmap, maximum_write_bytes: int) -> None:
    major, minor, max_readahead, flags, _, _, max_write, granularity, max_pages = INIT_OUT.unpack_from(
        buffer, OUT_HEADER.size
    )
    read_ahead = min(max_readahead, READ_AHEAD_BYTES)
    max_write = min(max_write, maximum_write_bytes)
    max_pages = min(max_pages, maximum_write_bytes // PAGE_BYTES)
    background = (MAXIMUM_BACKGROUND, CONGESTION_THRESHOLD)
    answer = (major, minor, read_ahead, flags, *background, max_write, granularity, max_pages)
    INIT_OUT.pack_into(buffer, OUT_HEADER.size, *answer)


def _split_forgets(request: bytearray) -> list[bytes]:
    """A BATCH_FORGET as several of at most FORGETS_AT_ONCE."""
    header = IN_HEADER.unpack_from(request)
    count, _ = BATCH_FORGET_IN.unpack_from(request, IN_HEADER.size)
    start = IN_HEADER.size + BATCH_FORGET_IN.size
    parts = []
    for first in range(0, count, FORGETS_AT_ONCE):
        here = min(FORGETS_AT_ONCE, count - first)
        body = request[start + first * FORGET_ONE_BYTES : start + (first + here) * FORGET_ONE_BYTES]
        parts.append(IN_HEADER.pack(start + len(body), *header[1:]) + BATCH_FORGET_IN.pack(here, 0) + bytes(body))
    return parts
