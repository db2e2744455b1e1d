"""Where the reader of state files finds them: in a directory, or in descriptors that this process has; sparse files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol


class Files(Protocol):
    """The files of a state."""

    def names(self) -> list[str]:
        """Of all that are there."""

    def open(self, name: str) -> int:
        """A descriptor for reading, which the caller closes. Raises FileNotFoundError."""


class Directory:
    """A state directory."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def names(self) -> list[str]:
        return sorted(os.listdir(self._path))

    def open(self, name: str) -> int:
        return os.open(self._path / name, os.O_RDONLY)


class Descriptors:
    """Files that have no names in a file system, by the descriptors that this process has of them."""

    def __init__(self, descriptors: Mapping[str, int]) -> None:
        self._descriptors = descriptors

    def names(self) -> list[str]:
        return sorted(self._descriptors)

    def open(self, name: str) -> int:
        descriptor = self._descriptors[name]
        # The owner may have closed it, and the number may be another file's by now.
        if not os.readlink(f"/proc/self/fd/{descriptor}").startswith(f"/memfd:blockstore-{name} "):
            raise FileNotFoundError(name)
        return os.dup(descriptor)  # nothing depends on its position


def data_ranges(fd: int) -> list[tuple[int, int]]:
    """The [start, end) ranges of a file that are not holes."""
    ranges: list[tuple[int, int]] = []
    position, end = 0, os.fstat(fd).st_size
    while position < end:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
        except OSError:
            break  # ENXIO: no data from here on
        position = os.lseek(fd, start, os.SEEK_HOLE)
        ranges.append((start, position))
    return ranges


def copy(source: Path, target: Path) -> None:
    """A state directory as it is; holes of its files stay holes."""
    target.mkdir(parents=True)
    for path in source.iterdir():
        with path.open("rb") as old, (target / path.name).open("wb") as new:
            new.truncate(path.stat().st_size)
            for start, end in data_ranges(old.fileno()):
                os.pwrite(new.fileno(), os.pread(old.fileno(), end - start, start), start)
