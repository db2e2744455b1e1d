"""/dev/fuse as the daemon reads it: requests come through a pipe, so that none is lost with a reader that is killed.

read(2) copies a request into the memory of the process that reads. When SIGKILL meets that copy, the kernel ends the
request with EIO and never asks again, because it was never handed over (fs/fuse/dev.c, fuse_dev_do_read): of a
write-back clean pages are left, with content that no store has. splice(2) links the request's pages into a pipe
instead. Nothing in that can fail half-way, and the kernel asks the next reader again (FUSE_NOTIFY_RESEND).
"""

from __future__ import annotations

import errno
import fcntl
import io
import logging
import mmap
import os
from typing import Final

from blockstore.daemon import fuse_abi as abi

log = logging.getLogger(__name__)

PIPE_BYTES: Final = 2 * abi.MAXIMUM_WRITE_BYTES
"""Wanted of the pipe: each page of a request takes a slot of 4 KiB, and the header before the first one takes another;
sizes of pipes are powers of two. Above /proc/sys/fs/pipe-max-size, usually 1 MiB, this needs CAP_SYS_RESOURCE."""

LEAST_PIPE_BYTES: Final = 64 << 10
"""A user who has many pipes gets only two slots for each new one, and may not have more (pipe(7)); this is what is
tried last."""


class Device:
    """The descriptor of a mount and the pipe behind it; one thread at a time may read."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        read_end, self._pipe_in = os.pipe2(os.O_CLOEXEC)
        self._pipe_out = io.FileIO(read_end, "r")
        self._pipe_bytes = widen(self._pipe_in)
        self._direct: io.FileIO | None = None

    @property
    def maximum_write_bytes(self) -> int:
        """Returns what a WRITE may carry so that the pipe holds it and its header: a power of two."""
        return min(abi.MAXIMUM_WRITE_BYTES, self._pipe_bytes // 2)

    def read(self, buffer: mmap.mmap | memoryview) -> int:
        """Waits for a request and puts it at the start of the buffer; returns its length in bytes.

        Raises OSError: ENODEV when the mount has ended, ENOENT when the request was withdrawn.
        """
        if self._direct is not None:
            return self._direct.readinto(buffer) or 0
        try:
            size = os.splice(self.descriptor, self._pipe_in, min(len(buffer), self._pipe_bytes))
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            self._do_without_pipe()
            return self.read(buffer)
        # The pipe is empty before each request, so that one read takes the whole of it.
        taken = self._pipe_out.readinto(buffer)
        if taken != size:
            raise AssertionError(f"a request of {size} bytes came out of the pipe as {taken}")
        return size

    def read_at_once(self, buffer: mmap.mmap | memoryview) -> int:
        """Does the same, but does not wait: returns 0 when there is no request.

        What poll(2) has seen may have been withdrawn, because its process was killed.
        """
        os.set_blocking(self.descriptor, False)
        try:
            return self.read(buffer)
        except BlockingIOError:
            return 0
        finally:
            os.set_blocking(self.descriptor, True)

    def close(self) -> None:
        """Closes the pipe; the descriptor belongs to the caller."""
        self._pipe_out.close()
        os.close(self._pipe_in)

    def _do_without_pipe(self) -> None:
        """Reads by read(2) from now on: the kernel wants more room than this pipe has, for the largest WRITE that was
        agreed upon when the mount was made, by a daemon that could have a larger pipe or did not need one."""
        log.critical(
            "this process may not have a pipe that is large enough for this mount (%d KiB): if it is killed, memory "
            "that is just being written back can be lost; unmount and mount again, or grant CAP_SYS_RESOURCE",
            self._pipe_bytes >> 10,
        )
        self._direct = io.FileIO(self.descriptor, "r", closefd=False)


def widen(pipe: int) -> int:
    """Makes a pipe as large as it may be, PIPE_BYTES at most; returns its size in bytes."""
    size = PIPE_BYTES
    while size >= LEAST_PIPE_BYTES:
        try:
            return fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, size)
        except PermissionError:
            size //= 2
    return fcntl.fcntl(pipe, fcntl.F_GETPIPE_SZ)
