"""A tier in an ordinary file, on a disk.

    offset 0       header: magic 16s, version u32, bytes of a slot u32, store id 16s
    offset 4096    length u32 of each piece, by number; 0 is none
    offset 64 MiB  slots of 1 MiB, by number: the pieces

The file grows by extents that have room on the disk before they are used, and what is deleted is a hole again. A piece
is acknowledged when the disk has its data, because a page that the kernel fails to write later is dropped, and the
memory that it stood for was given up by then. The journal is not waited for: the state itself does not outlive the
machine. No page of the file stays in the page cache, which is the memory that a tier is to save.

A disk that does not answer keeps a call for longer than WAIT_S: there is no reading a file with a limit of time.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import stat
import struct
import threading
from array import array
from contextlib import suppress
from pathlib import Path
from typing import Final

from blockstore.errors import InputError
from blockstore.store import sync_range
from blockstore.store.codec import Buffer
from blockstore.store.state.geometry import SEGMENT_BYTES, SEGMENT_SHIFT
from blockstore.store.state.home import punch
from blockstore.store.tiers import PieceMissing, TierAway

EXTENT_BYTES: Final = 64 << 20
"""What the file grows by: a full disk shows before anything is written, and slots lie together."""

SLOTS_AT: Final = 64 << 20
LENGTHS_AT: Final = 4096
MAXIMUM_PIECES: Final = (SLOTS_AT - LENGTHS_AT) // 4
"""16 TiB of pieces."""

HEADER: Final = struct.Struct("<16sII16s")
VERSION: Final = 1
_MAGIC: Final = b"blockstore tier\0"
_LENGTH: Final = struct.Struct("<I")
_DONTNEED: Final = os.POSIX_FADV_DONTNEED


class FileTier:
    """The pieces of one store, in the file at `path`, which is opened when it is first needed. See `Tier`."""

    def __init__(self, path: str, store_id: bytes) -> None:
        self._path = path
        self._store_id = store_id
        self._lock = threading.Lock()  # of opening, growing and closing
        self._fd = -1
        self._end = 0
        self._lengths = array("I")

    def check(self) -> None:
        with self._lock:
            if self._fd < 0:
                self._open(os.O_CREAT)

    def put(self, piece: int, data: Buffer) -> None:
        length = memoryview(data).nbytes
        assert 0 < length <= SEGMENT_BYTES, length
        if piece >= MAXIMUM_PIECES:
            raise TierAway(f"{self._path} is full: it has {MAXIMUM_PIECES} pieces")
        fd, start = self._opened(), _slot(piece)
        try:
            self._grow(piece)
            self._set_length(fd, piece, 0)
            _write(fd, data, start)
            self._set_length(fd, piece, length)
            sync_range.complete(fd, start, length)
        except OSError as error:
            if piece < len(self._lengths):
                with suppress(OSError):
                    self._set_length(fd, piece, 0)
                    punch(fd, start, SEGMENT_BYTES)
            raise self._away(error) from None
        os.posix_fadvise(fd, start, SEGMENT_BYTES, _DONTNEED)

    def read(self, piece: int, offset: int, length: int) -> bytes:
        assert offset >= 0 and length > 0, (offset, length)
        fd, start = self._opened(), _slot(piece) + offset
        there = self._lengths[piece] if piece < len(self._lengths) else 0
        if offset + length > there:
            raise PieceMissing(f"{self._path} has {there} bytes of piece {piece}, not the {length} at {offset}")
        try:
            data = os.pread(fd, length, start)
            first = start & -mmap.PAGESIZE  # whole pages: the kernel keeps those of which only a part is not needed
            os.posix_fadvise(fd, first, -(-(start + length - first) // mmap.PAGESIZE) * mmap.PAGESIZE, _DONTNEED)
        except OSError as error:
            raise self._away(error) from None
        if len(data) != length:
            raise PieceMissing(f"{self._path} ends within piece {piece}")
        return data

    def delete(self, piece: int) -> None:
        fd = self._opened()
        if piece >= len(self._lengths):
            return
        try:
            self._set_length(fd, piece, 0)
            punch(fd, _slot(piece), SEGMENT_BYTES)
        except OSError as error:
            raise self._away(error) from None

    def pieces(self) -> list[int]:
        self._opened()
        return [piece for piece, length in enumerate(self._lengths) if length]

    def describe(self) -> str:
        return f"file:{self._path}"

    def close(self) -> None:
        with self._lock:
            if self._fd >= 0:
                os.close(self._fd)
            self._fd = -1

    def remove(self) -> None:
        """Delete the file, if it is ours: the store is no more. Raises TierAway."""
        self._opened()
        try:
            Path(self._path).unlink()
        except OSError as error:
            raise self._away(error) from None

    def _opened(self) -> int:
        """The descriptor. Raises TierAway where there is no file, or another's."""
        if self._fd < 0:
            with self._lock:
                if self._fd < 0:
                    try:
                        self._open(0)
                    except InputError as error:
                        raise TierAway(str(error)) from None
        return self._fd

    def _open(self, flags: int) -> None:
        """Open and adopt the file. Raises InputError for what is not ours, TierAway for what may pass."""
        try:
            fd = os.open(self._path, os.O_RDWR | os.O_CLOEXEC | flags, 0o600)
        except OSError as error:
            if flags or error.errno != errno.ENOENT:
                raise InputError(
                    f"the tier {self.describe()} cannot be opened: {error.strerror}; name a file in a directory that "
                    "can be written to"
                ) from None
            raise TierAway(f"the tier {self.describe()} is not there") from None
        try:
            self._adopt(fd)
        except OSError as error:
            os.close(fd)
            raise self._away(error) from None
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    def _adopt(self, fd: int) -> None:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise InputError(f"the tier {self.describe()} is no ordinary file; name one, or one that is not there yet")
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f"the tier {self.describe()} is in use by another mount; each needs a file of its own"
            ) from None
        header = os.pread(fd, HEADER.size, 0)
        is_new = not any(header) and os.fstat(fd).st_size <= LENGTHS_AT
        if not is_new and (len(header) < HEADER.size or header[:16] != _MAGIC):
            raise InputError(f"{self._path} holds something else than a tier of blockstore; name another file")
        if not is_new and HEADER.unpack(header)[1:3] != (VERSION, SEGMENT_BYTES):
            raise InputError(f"the tier {self.describe()} was made by another version of blockstore; name another file")
        lengths = _read_lengths(fd)
        if is_new or header[-16:] != self._store_id:
            if any(lengths):
                raise InputError(
                    f"the tier {self.describe()} is another store's, and holds memory of its VMs; name another file"
                )
            _write(fd, HEADER.pack(_MAGIC, VERSION, SEGMENT_BYTES, self._store_id).ljust(LENGTHS_AT, b"\0"), 0)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)  # no read-ahead: the neighbours of a record are not wanted
        self._lengths, self._end = lengths, SLOTS_AT + (len(lengths) << SEGMENT_SHIFT)

    def _grow(self, piece: int) -> None:
        """Let the file have the slot of this piece."""
        with self._lock:
            while self._end < _slot(piece + 1):
                try:
                    os.posix_fallocate(self._fd, self._end, EXTENT_BYTES)
                    grown = EXTENT_BYTES
                except OSError:
                    os.ftruncate(self._fd, self._end)
                    os.posix_fallocate(self._fd, self._end, SEGMENT_BYTES)  # the last ones, one by one
                    grown = SEGMENT_BYTES
                self._lengths.extend([0] * (grown >> SEGMENT_SHIFT))
                self._end += grown

    def _set_length(self, fd: int, piece: int, length: int) -> None:
        _write(fd, _LENGTH.pack(length), LENGTHS_AT + _LENGTH.size * piece)
        self._lengths[piece] = length

    def _away(self, error: OSError) -> TierAway:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return TierAway(f"the file system of the tier {self.describe()} is full")
        return TierAway(f"the tier {self.describe()} fails: {error.strerror}")


def _slot(piece: int) -> int:
    return SLOTS_AT + (piece << SEGMENT_SHIFT)


def _read_lengths(fd: int) -> array[int]:
    lengths = array("I")
    slots = max(os.fstat(fd).st_size - SLOTS_AT, 0) >> SEGMENT_SHIFT
    if slots:
        lengths.frombytes(os.pread(fd, slots * _LENGTH.size, LENGTHS_AT))
    return lengths


def _write(fd: int, data: Buffer, offset: int) -> None:
    written = os.pwrite(fd, data, offset)
    if written != memoryview(data).nbytes:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
