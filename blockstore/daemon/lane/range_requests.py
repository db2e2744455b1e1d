"""Requests on ranges of files that carry no data: FALLOCATE, COPY_FILE_RANGE and its 64-bit successor, LSEEK.

The first two become jobs of the lane, LSEEK is answered at once.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Final

from blockstore.daemon.fuse import fuse_abi as abi
from blockstore.daemon.lane.jobs import Job
from blockstore.plane.sync.lock import StoreLock
from blockstore.store.steps import Steps
from blockstore.store.store import Store

_LARGEST_COPY_BYTES: Final = 0x7FFF_F000
"""COPY_FILE_RANGE answers with 32 bits; more is asked for again by the caller."""

_FALLOCATE_MODES: Final = frozenset(
    (
        0,
        abi.FALLOC_KEEP_SIZE,
        abi.FALLOC_PUNCH_HOLE | abi.FALLOC_KEEP_SIZE,
        abi.FALLOC_ZERO_RANGE,
        abi.FALLOC_ZERO_RANGE | abi.FALLOC_KEEP_SIZE,
    )
)
"""All others are refused, as fallocate(2) says of a file system that does not have them."""


class RangeRequests:
    """For the lane: `enter` takes a job, `answer` sends an answer; `writers_of(inode, fh)` says how many other handles
    than `fh` may write to a file."""

    def __init__(
        self,
        store: Store,
        store_lock: StoreLock,
        enter: Callable[[Job], None],
        answer: Callable[[bytes], None],
        writers_of: Callable[[int, int], int],
    ) -> None:
        self._store = store
        self._store_lock = store_lock
        self._enter = enter
        self._answer = answer
        self._writers_of = writers_of
        self.handlers: Final[dict[int, Callable[[int, int, bytes], None]]] = {
            abi.FALLOCATE: self._fallocate,
            abi.COPY_FILE_RANGE: self._copy_file_range,
            abi.COPY_FILE_RANGE_64: self._copy_file_range,
            abi.LSEEK: self._lseek,
        }
        """By opcode: they get the request's `unique`, the file's inode, and the arguments."""

    def _fallocate(self, unique: int, inode: int, arguments: bytes) -> None:
        _, offset, length, mode, _ = abi.FALLOCATE_IN.unpack_from(arguments)
        volume = self._store.volumes[inode]
        freeing = mode & (abi.FALLOC_PUNCH_HOLE | abi.FALLOC_ZERO_RANGE)
        if mode not in _FALLOCATE_MODES:
            self._fail(unique, errno.EOPNOTSUPP)
            return

        def steps() -> Steps:
            if freeing:
                yield from self._store.discard_steps(volume, offset, length)
            if not mode & abi.FALLOC_KEEP_SIZE and offset + length > volume.size_bytes:
                yield from self._store.resize_steps(volume, offset + length)

        answer = abi.OUT_HEADER.pack(abi.OUT_HEADER.size, 0, unique)
        self._enter(Job(unique, volume, steps(), lambda: answer))

    def _copy_file_range(self, unique: int, inode: int, arguments: bytes) -> None:
        _, from_offset, to_inode, _, to_offset, length, flags = abi.COPY_FILE_RANGE_IN.unpack_from(arguments)
        if flags:  # copy_file_range(2) knows none
            self._fail(unique, errno.EINVAL)
            return
        source, target = self._store.volumes[inode], self._store.volumes[to_inode]
        if source.domain is not target.domain:
            self._fail(unique, errno.EXDEV)  # the caller copies bytes instead
            return
        length = max(min(length, source.size_bytes - from_offset, _LARGEST_COPY_BYTES), 0)
        copied = 0

        def steps() -> Steps:
            nonlocal copied
            copied = yield from self._store.clone_steps(source, from_offset, target, to_offset, length)

        self._enter(Job(unique, target, steps(), lambda: abi.OUT_U64.pack(abi.OUT_U64.size, 0, unique, copied)))

    def _lseek(self, unique: int, inode: int, arguments: bytes) -> None:
        fh, offset, whence, _ = abi.LSEEK_IN.unpack_from(arguments)
        volume = self._store.volumes[inode]
        size = volume.size_bytes
        if whence not in (os.SEEK_DATA, os.SEEK_HOLE):  # the kernel answers the others itself
            self._fail(unique, errno.EINVAL)
            return
        if offset >= size:
            self._fail(unique, errno.ENXIO)
            return
        if self._writers_of(inode, fh):
            # Somebody else may have written to a mapping what is not here yet: nothing can be called a hole.
            found = offset if whence == os.SEEK_DATA else size
        else:
            with self._store_lock:
                found = volume.seek(offset, data=whence == os.SEEK_DATA)
        if whence == os.SEEK_DATA and found >= size:
            self._fail(unique, errno.ENXIO)
            return
        self._answer(abi.OUT_U64.pack(abi.OUT_U64.size, 0, unique, found))

    def _fail(self, unique: int, code: int) -> None:
        self._answer(abi.failure(unique, code))
