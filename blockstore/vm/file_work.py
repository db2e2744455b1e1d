"""Writing back and cloning a file of the mount, with a deadline: while the pool is full both wait in the kernel, for
ever, and whoever waits in fsync(2) cannot even be killed. So a process of its own does it, and is left behind if it
must be.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import struct
from functools import partial
from typing import Final

from blockstore.errors import MountError, OutOfRoom
from blockstore.vm import apart
from blockstore.vm.memory.write_errors import insist

_FLUSH: Final = b"f"
_CLONE: Final = b"c"
_APPEND: Final = b"a"

_ANSWER: Final = struct.Struct("=BQ")
"""An error number, or 0, and the bytes that were written again."""

_PIECE_BYTES: Final = 1 << 20


class FileWork:
    """On one file `source` of `size_bytes`, the `target` that it is cloned to, and a `tail`, a file elsewhere that is
    to come behind that."""

    def __init__(self, source: int, target: int, tail: int, size_bytes: int) -> None:
        asks, self._asking = os.pipe()
        self._answers, answering = os.pipe()

        def work() -> int:
            return _serve(asks, answering, source, target, tail, size_bytes)

        self.rewritten_bytes = 0
        """Of the source, whose write-back had failed."""
        self._pid = apart.fork([asks, answering, source, target, tail], work)
        os.close(asks)
        os.close(answering)

    def flush(self, timeout_s: float) -> None:
        """Write the source's dirty pages back. Raises OutOfRoom when that takes longer, MountError."""
        self.rewritten_bytes += self._do(_FLUSH, timeout_s, "its dirty pages could not be written back")

    def clone(self, timeout_s: float) -> None:
        """Let the target be as the source is. Raises OutOfRoom, MountError."""
        self._do(_CLONE, timeout_s, "its memory could not be cloned")

    def append(self, timeout_s: float) -> None:
        """Write the tail behind the target's memory. Raises OutOfRoom, MountError."""
        self._do(_APPEND, timeout_s, "what stands behind its memory could not be written")

    def close(self) -> None:
        """End the process, if that is possible now; it does not outlive what it waits for."""
        os.close(self._asking)
        os.close(self._answers)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(self._pid, os.WNOHANG)

    def _do(self, what: bytes, timeout_s: float, failed: str) -> int:
        os.write(self._asking, what)
        poll = select.poll()
        poll.register(self._answers, select.POLLIN)
        if not poll.poll(timeout_s * 1000):
            raise OutOfRoom(
                f"{failed} within {timeout_s:g} s; is the pool full (`blockstore status`)? delete something, or raise "
                "the limit with `blockstore set --pool-limit`"
            )
        code, rewritten_bytes = _ANSWER.unpack(os.read(self._answers, _ANSWER.size) or _ANSWER.pack(errno.EIO, 0))
        if code == errno.ENOSPC:
            raise OutOfRoom(f"{failed}: there is no room; delete something, or raise the limit with `blockstore set`")
        if code:
            raise MountError(f"{failed}: {os.strerror(code)}")
        return int(rewritten_bytes)


def clone(source: int, target: int, size_bytes: int) -> None:
    """Let the first bytes of the target be those of the source: within a domain this moves no data. Raises OSError."""
    done = 0
    while done < size_bytes:
        copied = os.copy_file_range(source, target, size_bytes - done, done, done)
        if not copied:
            raise OSError(errno.EIO, "the source is shorter than its memory")
        done += copied


def append(tail: int, target: int, size_bytes: int) -> None:
    """Write a file behind so many bytes of the target, which are all there. Raises OSError."""
    os.ftruncate(target, size_bytes)
    offset = 0
    while piece := os.pread(tail, _PIECE_BYTES, offset):
        offset += os.pwrite(target, piece, size_bytes + offset)
    insist(target, partial(os.fsync, target))


def _serve(asks: int, answering: int, source: int, target: int, tail: int, size_bytes: int) -> int:
    while what := os.read(asks, 1):
        code = rewritten_bytes = 0
        try:
            if what == _FLUSH:
                rewritten_bytes = insist(source, partial(os.fsync, source))
            elif what == _CLONE:
                clone(source, target, size_bytes)
            else:
                append(tail, target, size_bytes)
        except OSError as error:
            code = error.errno or errno.EIO
        os.write(answering, _ANSWER.pack(code, rewritten_bytes))
    return 0
