"""Image files: which of their bytes are memory, and where in the VM's memory these stand."""

from __future__ import annotations

import errno
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final, NamedTuple

from blockstore.analysis import elf_core, formats
from blockstore.errors import InputError
from blockstore.store.state.geometry import BLOCK_BYTES
from blockstore.store.store import check_size

PIECE_BYTES: Final = 1 << 20
"""Read from an image at a time."""


_NOT_REGULAR: Final = "is not a regular file; save what it gives to a file and name that"


class Extent(NamedTuple):
    """Bytes of memory: where they stand in the file, and in the memory, there at the beginning of a block. All but the
    last before a gap of the memory are whole blocks."""

    offset: int
    memory_offset: int
    length: int


@dataclass
class Image:
    """An open image file and what it looked like when it was opened."""

    path: str
    fd: int
    size_bytes: int
    mtime_ns: int
    memory_bytes: int
    """What the VM has; holes of the file, and what a core leaves out, are memory that it never touched."""
    extents: list[Extent]

    @property
    def data_bytes(self) -> int:
        return sum(extent.length for extent in self.extents)

    def pieces(self) -> Iterator[tuple[int, bytes]]:
        """(offset in the memory, data) of everything that is not a hole. Raises InputError."""
        for extent in self.extents:
            for done in range(0, extent.length, PIECE_BYTES):
                length = min(PIECE_BYTES, extent.length - done)
                try:
                    data = os.pread(self.fd, length, extent.offset + done)
                except OSError as error:
                    raise InputError(f"{self.path} cannot be read: {error.strerror}") from None
                if len(data) < length:
                    raise self._changed()
                yield extent.memory_offset + done, data

    def check_unchanged(self) -> None:
        """Raises InputError when the image was written to since it was opened."""
        now = os.fstat(self.fd)
        if (now.st_size, now.st_mtime_ns) != (self.size_bytes, self.mtime_ns):
            raise self._changed()

    def _changed(self) -> InputError:
        return InputError(f"{self.path} changed while it was read; pause the VM, or analyze a copy")


def open_all(paths: Sequence[str], stack: ExitStack) -> list[Image]:
    """Returns all images, checked before the first is read: a typing error should not cost the minutes before it. The
    stack closes them. Raises InputError for a path that is named twice, or is no image."""
    for path, times in Counter(paths).items():
        if times > 1:
            raise InputError(f"{path} is named {times} times; name each image once")
    return [_open(path, stack) for path in paths]


def _open(path: str, stack: ExitStack) -> Image:
    if path == "-":
        raise InputError("standard input cannot be analyzed; save it to a file and name that")
    try:
        # Without O_NONBLOCK the open of a pipe would wait for its writer.
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket, or a device that is not there
            raise InputError(f"{path} {_NOT_REGULAR}") from None
        raise InputError(f"{path} cannot be read: {error.strerror}; name a readable memory image") from None
    stack.callback(os.close, fd)
    status = os.fstat(fd)
    if stat.S_ISDIR(status.st_mode):
        raise InputError(f"{path} is a directory; name the image files in it")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path} {_NOT_REGULAR}")
    if not status.st_size:
        raise InputError(f"{path} is empty; name a memory image")
    memory_bytes, extents = _memory(path, fd, status.st_size)
    check_size(memory_bytes)
    return Image(path, fd, status.st_size, status.st_mtime_ns, memory_bytes, extents)


def _memory(path: str, fd: int, size_bytes: int) -> tuple[int, list[Extent]]:
    """Returns how much memory the file shows, and where it stands. Raises InputError for a file of another kind."""
    try:
        head = os.pread(fd, formats.MAGIC_BYTES, 0)
        if head.startswith(elf_core.MAGIC):
            return _of_core(elf_core.segments(lambda length, offset: os.pread(fd, length, offset), size_bytes))
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from None
    except elf_core.NotACore as error:
        raise InputError(f"{path} {error}; name an image of a VM's memory") from None
    if (refusal := formats.refusal(head)) is not None:
        raise InputError(f"{path} {refusal}")
    return size_bytes, [Extent(start, start, end - start) for start, end in _data(fd, size_bytes)]


def _of_core(segments: Sequence[elf_core.Segment]) -> tuple[int, list[Extent]]:
    """Ranges of memory one behind the other, each from the beginning of a block on: gaps between them are no memory."""
    extents, memory_bytes = [], 0
    for segment in segments:
        if segment.file_bytes:
            extents.append(Extent(segment.offset, memory_bytes, segment.file_bytes))
        memory_bytes += -(-segment.memory_bytes // BLOCK_BYTES) * BLOCK_BYTES
    return memory_bytes, extents


def _data(fd: int, size_bytes: int) -> list[tuple[int, int]]:
    """The [start, end) ranges of data, widened to whole blocks; everything where the file system knows no holes."""
    found: list[tuple[int, int]] = []
    position = 0
    while position < size_bytes:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
            end = os.lseek(fd, start, os.SEEK_HOLE)
        except OSError:
            break  # ENXIO: only a hole from here on
        start &= -BLOCK_BYTES
        end = min(-(-end // BLOCK_BYTES) * BLOCK_BYTES, size_bytes)
        if found and start <= found[-1][1]:
            start = found.pop()[0]
        found.append((start, end))
        position = end
    return found
