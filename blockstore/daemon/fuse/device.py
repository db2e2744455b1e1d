"""/dev/fuse as the daemon reads it: requests come through a pipe, so that none is lost with a reader that is killed.

read(2) copies a request into the memory of the process that reads. When SIGKILL meets that copy, the kernel ends the
request with EIO and never asks again, because it was never handed over (fs/fuse/dev.c, fuse_dev_do_read): of a
write-back clean pages are left, with content that no store has. splice(2) links the request's pages into a pipe
instead. Nothing in that can fail half-way, and the kernel asks the next reader again (FUSE_NOTIFY_RESEND).
"""

from __future__ import annotations

import fcntl
import logging
import os
import resource
from itertools import chain
from typing import Final

from blockstore.daemon.fuse import fuse_abi as abi

log = logging.getLogger(__name__)

PIPE_BYTES: Final = 2 * abi.MAXIMUM_WRITE_BYTES
"""Wanted of the pipe: each page of a request takes a slot of 4 KiB, and the header before the first one takes another;
sizes of pipes are powers of two. Above /proc/sys/fs/pipe-max-size, usually 1 MiB, this needs CAP_SYS_RESOURCE."""

LEAST_PIPE_BYTES: Final = 64 << 10
"""A user who has many pipes gets only two slots for each new one, and may not have more (pipe(7)); this is what is
tried last."""

_MAXIMUM_SPARE_PIPES: Final = 16
_DESCRIPTORS_A_PIPE: Final = 32
"""The kernel sends up to 24 WRITEs of write-back at once (relay.py); one that finds no pipe is copied by the lane. Each
pipe takes 10 KiB of the kernel, and 256 of the 16,384 pages that a user without privileges may have in pipes. Of a
process that may have few descriptors they take a sixteenth."""


def spare_pipes(descriptors: int) -> int:
    """Returns how many a daemon has that may have so many descriptors, at most; each takes two."""
    return min(descriptors // _DESCRIPTORS_A_PIPE, _MAXIMUM_SPARE_PIPES)


class Device:
    """The descriptor of a mount and the pipe behind it. The lane reads through `pipe` itself (plane/serve/lane.pyi)."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._pipe_out, self._pipe_in = os.pipe2(os.O_CLOEXEC)
        self.pipe_bytes = widen(self._pipe_in)
        self._spare_pipes: list[tuple[int, int]] = []

    @property
    def pipe(self) -> tuple[int, int]:
        """The ends to read from and to write to."""
        return self._pipe_out, self._pipe_in

    @property
    def maximum_write_bytes(self) -> int:
        """Returns what a WRITE may carry so that the pipe holds it and its header: a power of two."""
        return min(abi.MAXIMUM_WRITE_BYTES, self.pipe_bytes // 2)

    def close(self) -> None:
        """Closes the pipe; the descriptor belongs to the caller."""
        for end in chain(self.pipe, *self._spare_pipes):
            os.close(end)
        self._spare_pipes.clear()

    def spare_pipes(self) -> list[tuple[int, int]]:
        """Returns ends to read from and to write to, of pipes as large as `pipe`: for WRITEs that wait to be copied.
        There may be fewer than `spare_pipes` says, for a user can have only so much of pipes (pipe(7))."""
        most = spare_pipes(resource.getrlimit(resource.RLIMIT_NOFILE)[0])
        while len(self._spare_pipes) < most:
            try:
                ends = os.pipe2(os.O_CLOEXEC)
            except OSError:
                break
            if widen(ends[1]) < self.pipe_bytes:
                for end in ends:
                    os.close(end)
                break
            self._spare_pipes.append(ends)
        return list(self._spare_pipes)

    def tell_that_pipe_is_small(self) -> None:
        """Logs that the lane reads by read(2) from now on: the kernel wants more room than this pipe has, for the
        largest WRITE that was agreed upon when the mount was made, by a daemon that could have a larger pipe or did
        not need one."""
        log.critical(
            "this process may not have a pipe that is large enough for this mount (%d KiB): if it is killed, memory "
            "that is just being written back can be lost; unmount and mount again, or grant CAP_SYS_RESOURCE",
            self.pipe_bytes >> 10,
        )


def widen(pipe: int) -> int:
    """Makes a pipe as large as it may be, PIPE_BYTES at most; returns its size in bytes."""
    size = PIPE_BYTES
    while size >= LEAST_PIPE_BYTES:
        try:
            return fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, size)
        except PermissionError:
            size //= 2
    return fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ)
