"""Reads the daemons' logs: a line of level ERROR or CRITICAL, or a traceback, fails the test that did not announce it.

A test announces it by `@pytest.mark.logs("regular expression")`, and a function that kills a daemon by `expect`. Logs
are kept open, because a state is deleted, moved or replaced in many tests, and read piece by piece, because many tests
use one mount.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest

NO_ROOM: Final = pytest.mark.logs("there is no room for more: ")
"""For tests that fill a pool."""

STANDS_STILL: Final = pytest.mark.logs("requests wait, but the lane takes none", r"the daemon died \(no sign of life")
"""For tests that stop a daemon, which may be found out by itself or by its supervisor."""

NAMES: Final = ("daemon.log", "daemon.log.1", "daemon.controller", "daemon.stderr")

ENTRY_LINES: Final = 40
"""Shown of one entry at most."""

_BEGIN: Final = re.compile(r"^(?=\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)", re.MULTILINE)
_BAD: Final = re.compile(r"^\S+ \S+ (ERROR|CRITICAL) |^Traceback \(|^Fatal Python error", re.MULTILINE)


class _File:
    """One log. Its inode is its name. `descriptor` is negative where keeping it open would keep a file system busy."""

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path = path
        self.descriptor = descriptor
        self._offset = 0

    def read(self) -> str:
        """What has come since the last call, up to the last end of a line."""
        descriptor = self.descriptor if self.descriptor >= 0 else os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            data = b""
            while piece := os.pread(descriptor, 1 << 20, self._offset + len(data)):
                data += piece
        finally:
            if descriptor != self.descriptor:
                os.close(descriptor)
        data = data[: data.rfind(b"\n") + 1]
        self._offset += len(data)
        return data.decode(errors="replace")

    def close(self) -> None:
        if self.descriptor >= 0:
            os.close(self.descriptor)


class Logs:
    """The logs of the states in the workspaces of this process. After a fork each process goes on for itself."""

    def __init__(self, mounts_below: Callable[[Path], Sequence[Path]]) -> None:
        self._mounts_below = mounts_below
        self._states: dict[Path, set[Path]] = {}
        self._files: dict[Path, dict[tuple[int, int], _File]] = {}
        self._kept: list[str] = []
        self.expected: list[str] = []
        """Regular expressions of what the test that runs means to come."""

    def watch(self, workspace: Path, state: Path | None = None) -> None:
        """From now on; `state` may be anywhere, and those in the workspace are found."""
        states = self._states.setdefault(workspace, set())
        self._files.setdefault(workspace, {})
        if state is not None:
            states.add(state)
        self.find()

    def forget(self, workspace: Path) -> None:
        """It is about to be deleted; what is in its logs is told by the next `errors`."""
        self._kept = self.errors()
        self._states.pop(workspace, None)
        for file in self._files.pop(workspace, {}).values():
            file.close()

    def expect(self, pattern: str) -> None:
        """As the marker does, until the test ends."""
        self.expected.append(pattern)

    def find(self) -> None:
        """Open the logs that have come. Called before any command, because commands delete states."""
        for workspace, states in self._states.items():
            files = self._files[workspace]
            for state in {*states, *self._folders(workspace)}:
                for path in (state / name for name in NAMES):
                    with contextlib.suppress(OSError):
                        facts = path.stat()
                        if (facts.st_dev, facts.st_ino) not in files:
                            busy = facts.st_dev != workspace.stat().st_dev
                            descriptor = -1 if busy else os.open(path, os.O_RDONLY | os.O_CLOEXEC)
                            files[facts.st_dev, facts.st_ino] = _File(path, descriptor)

    def errors(self) -> list[str]:
        """The entries since the last call that are errors."""
        self.find()
        found, self._kept = self._kept, []
        for files in self._files.values():
            for file in files.values():
                with contextlib.suppress(OSError):
                    found += [f"{file.path.name}: {entry}" for entry in errors_of(file.read())]
        return found

    def _folders(self, workspace: Path) -> Iterator[Path]:
        """Those that are no mounts: whoever looks into a mount may hang."""
        mounts = set(self._mounts_below(workspace))
        with contextlib.suppress(OSError), os.scandir(workspace) as entries:
            for entry in entries:
                path = Path(entry.path)
                if path not in mounts and entry.is_dir(follow_symlinks=False):
                    yield path


def errors_of(text: str) -> list[str]:
    """The entries of a log that are errors, each with the lines that belong to it."""
    entries = [entry.rstrip().splitlines() for entry in _BEGIN.split(text) if _BAD.search(entry)]
    return ["\n".join((*entry[:ENTRY_LINES], *["..."] * (len(entry) > ENTRY_LINES))) for entry in entries]


def unannounced(errors: Iterable[str], patterns: Sequence[str]) -> list[str]:
    """Without those in which one of the regular expressions is found."""
    return [error for error in errors if not any(re.search(pattern, error) for pattern in patterns)]
