"""Write-back that has failed, and how nothing is lost by it.

When the kernel is told that a page could not be written (or nobody lives to be told it was read), the page is clean all
the same: the store has what it had before, and the page's content is lost as soon as the page leaves the page cache.
All that is left of it is an error of the file, which each open file is told of once: each that was open before, and
the first one that is opened afterwards (lib/errseq.c). So whoever evicts asks for it first, and where there is one, the
resident pages of the file are made dirty again, to be written once more.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Final, NamedTuple

from blockstore.daemon.control import client
from blockstore.daemon.host import mounts
from blockstore.daemon.host.mounts import Mount
from blockstore.errors import BusyError
from blockstore.store import sync_range
from blockstore.vm import resident
from blockstore.vm.open_files import borrowed, open_mapped, open_volume

TRIES: Final = 3
"""How often the same pages are written before it is given up; they stay dirty then."""

LOOK_S: Final = 30.0
"""How long one who evicts waits until the controller has looked at all files after the start of a daemon. It takes a
millisecond for each file."""

_LOOK_RETRY_S: Final = 0.1

_WINDOW_BYTES: Final = 64 << 20
"""Mapped at once."""

_MADV_POPULATE_WRITE: Final = 23  # Linux 5.14

_madvise = ctypes.CDLL(None, use_errno=True).madvise
_madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


class Found(NamedTuple):
    """A file whose write-back has failed: so many bytes of it were made dirty again, or why they could not be."""

    name: str
    rewritten_bytes: int
    failure: str = ""


def has_failed(descriptor: int) -> bool:
    """Has write-back of the file failed, and was this open file not told so yet? It is told by that."""
    try:
        sync_range.check(descriptor)
    except OSError:
        return True
    return False


def insist(descriptor: int, write_back: Callable[[], None]) -> int:
    """Writes back; where that fails makes what is resident dirty and tries again, up to TRIES times. Returns the bytes
    that were made dirty again. Raises OSError when it fails each time."""
    rewritten_bytes = 0
    for number in range(TRIES):
        try:
            write_back()
            break
        except OSError:
            rewritten_bytes += make_dirty(descriptor)
            if number == TRIES - 1:
                raise
    return rewritten_bytes


def make_dirty(descriptor: int) -> int:
    """Makes all resident pages of the file dirty, and changes no byte of them; how many bytes that is. Raises OSError.

    MADV_POPULATE_WRITE has each page faulted for writing, as a store into it would (mm/gup.c). A page that leaves
    meanwhile comes back from the store; that is harmless.
    """
    own = os.open(f"/proc/self/fd/{descriptor}", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        size_bytes = os.fstat(own).st_size
        return sum(_make_window_dirty(own, start, size_bytes) for start in range(0, size_bytes, _WINDOW_BYTES))
    finally:
        os.close(own)


def look(
    mount: Mount, names: Mapping[int, str | None], failed: Collection[int], suspects: Collection[int], *, deep: bool
) -> dict[int, Found]:
    """Asks every file of the mount, by volume number, for an error, and makes dirty what has one, or is among the
    `failed` or the `suspects`. Returns what was found, by volume number; of a suspect without an error only why it
    could not be made dirty. A `deep` look also asks the open files of all processes, which know of an error that
    another one was told of."""
    found: dict[int, Found] = {}
    unseen = set(suspects)
    for number, descriptor in _descriptors(mount, names, deep=deep):
        if number in found:
            continue
        has_error = has_failed(descriptor) or number in failed
        if has_error or number in unseen:
            unseen.discard(number)
            mended = _mended(names[number] or f"(file {number}, which has no name)", descriptor)
            if has_error or mended.failure:
                found[number] = mended
    return found


def _mended(name: str, descriptor: int) -> Found:
    try:
        return Found(name, make_dirty(descriptor))
    except OSError as error:
        return Found(name, 0, error.strerror or str(error))


def tell(state: Path, name: str, rewritten_bytes: int) -> None:
    """Tells the daemon what an evictor had to write again, for its log and `status`. Raises MountError."""
    if rewritten_bytes:
        client.ask(state, {"do": "write_errors", "found": [Found(name, rewritten_bytes)]})


def await_look(state: Path) -> None:
    """Waits until what the daemon before this one may have lost is dirty again: nothing may be evicted before. Raises
    BusyError when that does not happen, MountError when there is no daemon."""
    deadline = time.monotonic() + LOOK_S
    while not client.ask(state, {"do": "hello"}).get("has_looked", True):
        if time.monotonic() > deadline:
            raise BusyError(
                f"the daemon with the state {state} was replaced, and its controller has not looked yet for what the "
                f"old one may have lost; try again, and look at {state}/daemon.controller"
            )
        time.sleep(_LOOK_RETRY_S)


def _descriptors(mount: Mount, names: Mapping[int, str | None], *, deep: bool) -> Iterator[tuple[int, int]]:
    """Volume numbers with an open file; that is closed when the next one is asked for.

    What cannot be opened (deleted or renamed meanwhile, not allowed) is left out. Of the processes' open files only
    those that may be written to: the others are those of evictors, who must be told themselves.
    """
    for number, name in names.items():
        if name is not None:
            with contextlib.suppress(OSError), _closing(open_volume(mount, name, number)) as descriptor:
                yield number, descriptor
    nameless = {number for number, name in names.items() if name is None}
    for mapping in mounts.mappings(mount) if nameless else ():
        if mapping.inode in nameless:
            with contextlib.suppress(OSError), _closing(open_mapped(mapping)) as descriptor:
                yield mapping.inode, descriptor
    for pid, theirs in mounts.open_files(mount) if deep else ():
        with contextlib.suppress(OSError), borrowed(pid, theirs) as descriptor:
            facts = os.fstat(descriptor)
            may_write = fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE != os.O_RDONLY
            if may_write and facts.st_ino in names and mount.has(facts, facts.st_ino):
                yield facts.st_ino, descriptor


@contextlib.contextmanager
def _closing(descriptor: int) -> Iterator[int]:
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class _Window(NamedTuple):
    """A part of a file from `offset` on, which is mapped at `address`."""

    descriptor: int
    offset: int
    address: int

    def populate(self, first: int, count: int) -> int:
        """Makes these pages dirty; how many bytes. Raises OSError."""
        skip, length = first * mmap.PAGESIZE, count * mmap.PAGESIZE
        if not _madvise(self.address + skip, length, _MADV_POPULATE_WRITE):
            return length
        code = ctypes.get_errno()
        if code == errno.EFAULT and count > 1:
            half = count // 2
            return self.populate(first, half) + self.populate(first + half, count - half)
        if code == errno.EFAULT and not any(resident.pages_of(self.descriptor, self.offset + skip, length)):
            return 0  # truncated meanwhile, or gone
        raise OSError(code, os.strerror(code))


def _make_window_dirty(descriptor: int, offset: int, size_bytes: int) -> int:
    pages = resident.pages_of(descriptor, offset, _WINDOW_BYTES)
    if not any(pages):
        return 0
    with mmap.mmap(descriptor, min(_WINDOW_BYTES, size_bytes - offset), mmap.MAP_SHARED, offset=offset) as mapping:
        mapping.madvise(mmap.MADV_RANDOM)  # no read-ahead
        first_byte = ctypes.c_char.from_buffer(mapping)
        try:
            window = _Window(descriptor, offset, ctypes.addressof(first_byte))
            return sum(window.populate(first, count) for first, count in _runs(pages))
        finally:
            del first_byte  # or the mapping could not be closed


def _runs(pages: bytes) -> Iterator[tuple[int, int]]:
    """(first, count) of the runs of ones."""
    end = 0
    while (first := pages.find(1, end)) >= 0:
        end = pages.find(0, first)
        end = end if end >= 0 else len(pages)
        yield first, end - first
