"""Where a store's files live: a state directory, or anonymous memory for stores that nobody comes back to.

Every array of the store is a file that is mapped shared, and every byte of it has memory *before* it is touched: on
a full tmpfs a store into a hole of a mapping ends the process with SIGBUS, while fallocate(2) and write(2) only
return ENOSPC.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
from pathlib import Path
from typing import Final, NamedTuple, Protocol

from blockstore.errors import OutOfRoom, StateError, state_in_use

SECTOR_BYTES: Final = 512
"""The unit of st_blocks (inode(7))."""

LOCK_NAME: Final = "lock"
"""The file of a state directory whose lock says that a process has the state."""

OWN_FILE: Final = os.O_CLOEXEC | os.O_NOFOLLOW
"""How files of a state directory are opened: a link in the place of one would have us write to any file."""

_PUNCH_HOLE: Final = 1 | 2
"""FALLOC_FL_KEEP_SIZE and FALLOC_FL_PUNCH_HOLE of fallocate(2)."""


class Home(Protocol):
    """A flat folder of named files."""

    def open(self, name: str) -> int:
        """A descriptor of the file, read-write, created empty when it is not there. The caller closes it."""

    def remove(self, name: str) -> None:
        """Forget the file. It is no error when it is not there."""

    def names(self) -> list[str]:
        """The names of all files."""

    def describe(self) -> str:
        """How to call this place in a message."""

    def close(self) -> None:
        """Give up the lock, if any."""


class MemoryHome:
    """Files without names (memfd_create(2)): gone with the process."""

    def open(self, name: str) -> int:
        return os.memfd_create(f"blockstore-{name}")

    def remove(self, name: str) -> None:
        del name

    def names(self) -> list[str]:
        return []

    def describe(self) -> str:
        return "memory"

    def close(self) -> None:
        return None


class DirectoryHome:
    """A state directory, mode 0700, held by one process at a time through a lock on its file LOCK_NAME."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._directory_fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise StateError(
                f"the state directory {path} cannot be used: {error.strerror}; name another with --state"
            ) from None
        with contextlib.suppress(OSError):  # systemd-tmpfiles(8) deletes nothing of a directory that is locked
            fcntl.flock(self._directory_fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        try:
            self._lock_fd = self.open(LOCK_NAME)
        except BaseException:
            os.close(self._directory_fd)
            raise
        try:
            fcntl.flock(self._lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.close()
            raise state_in_use(str(path)) from None

    def open(self, name: str) -> int:
        try:
            return os.open(name, os.O_RDWR | os.O_CREAT | OWN_FILE, 0o600, dir_fd=self._directory_fd)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise OutOfRoom(no_room_under(self.describe())) from None
            raise StateError(f"{self.path / name} cannot be opened: {error.strerror}") from None

    def open_to_read(self, name: str) -> int:
        """A descriptor of the file, for reading; empty when it is not there."""
        try:
            return os.open(name, os.O_RDONLY | OWN_FILE, dir_fd=self._directory_fd)
        except FileNotFoundError:
            return os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise StateError(f"{self.path / name} cannot be opened: {error.strerror}") from None

    def remove(self, name: str) -> None:
        try:
            os.unlink(name, dir_fd=self._directory_fd)
        except FileNotFoundError:
            return

    def names(self) -> list[str]:
        return os.listdir(self._directory_fd)

    def describe(self) -> str:
        return str(self.path)

    def close(self) -> None:
        os.close(self._directory_fd)
        os.close(self._lock_fd)


class CopiedHome:
    """A state directory to look at: tables are copied into memory, the pool is read where it is; nothing is changed.

    Holds the lock of the directory, so that no daemon changes it meanwhile.
    """

    def __init__(self, home: DirectoryHome) -> None:
        self._home = home

    def open(self, name: str) -> int:
        source = self._home.open_to_read(name)
        if name == "pool":
            return source
        copy = os.memfd_create(f"blockstore-{name}")
        try:
            _copy_data(source, copy)
        finally:
            os.close(source)
        return copy

    def remove(self, name: str) -> None:
        del name

    def names(self) -> list[str]:
        return self._home.names()

    def describe(self) -> str:
        return self._home.describe()

    def close(self) -> None:
        self._home.close()


def _copy_data(source: int, target: int) -> None:
    """A whole sparse file; holes stay holes."""
    end = os.fstat(source).st_size
    os.ftruncate(target, end)
    position = 0
    while position < end:
        try:
            start = os.lseek(source, position, os.SEEK_DATA)
        except OSError:
            return  # ENXIO: a hole up to the end
        position = os.lseek(source, start, os.SEEK_HOLE)
        os.lseek(target, start, os.SEEK_SET)
        while start < position:
            start += os.sendfile(target, source, start, position - start)


def write_in_place(path: Path, data: bytes) -> None:
    """Let a small file, of one page at most and always of one length, have this content. A killed process leaves the
    old or the new one, and only the first write needs room. Raises OutOfRoom, OSError."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | OWN_FILE, 0o600)
        try:
            os.pwrite(fd, data, 0)
        finally:
            os.close(fd)
    except OSError as error:
        raise lack_of_room(error, str(path.parent)) from None


class Space(NamedTuple):
    """A file system's, as far as it is for us; `inodes` is 0 where their number has no limit."""

    free_bytes: int
    size_bytes: int
    free_inodes: int
    inodes: int


def space_under(place: Path) -> Space:
    """Returns that of the file system there. Raises OSError."""
    found = os.statvfs(place)
    return Space(found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize, found.f_favail, found.f_files)


def free_bytes_under(place: Path) -> int:
    """What the file system there has left for us."""
    return space_under(place).free_bytes


def no_room_under(place: str) -> str:
    """The sentence for a full file system under the state."""
    return f"the file system under {place} is full; free some of it or name a state directory elsewhere with --state"


def allocate(fd: int, start: int, length: int, place: str) -> None:
    """Give the range real memory, growing the file if need be. Raises OutOfRoom and changes nothing otherwise."""
    try:
        os.posix_fallocate(fd, start, length)
    except OSError as error:
        raise lack_of_room(error, place) from None


def punch(fd: int, start: int, length: int) -> None:
    """Give the memory of the range back; it reads as zeros. Unlike MADV_REMOVE this works on locked pages."""
    if _fallocate(fd, _PUNCH_HOLE, start, length):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def lack_of_room(error: OSError, place: str) -> Exception:
    """OutOfRoom if that is what the error says, else the error itself."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.ENOMEM):
        return OutOfRoom(no_room_under(place))
    return error


_libc = ctypes.CDLL(None, use_errno=True)
_fallocate = _libc.fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
