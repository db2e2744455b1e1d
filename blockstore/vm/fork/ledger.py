"""What is made for new VMs, told to a process that undoes it when whoever makes it is killed before all is done."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from pathlib import Path
from typing import Any, Final, NamedTuple

_PID: Final = "pid"
_FILE: Final = "file"
_DONE: Final = "done"


class Ledger:
    """The end that is written to. Nothing is undone before all that have `writer` open have ended; `reader` is for the
    other process, and closed here by `keep_writing`."""

    def __init__(self) -> None:
        self.reader, self.writer = os.pipe()

    def keep_writing(self) -> None:
        """The other process has been started."""
        os.close(self.reader)

    def process(self, pid: int) -> None:
        """A process to be ended."""
        self._write(_PID, pid)

    def file(self, path: Path) -> None:
        """A file to be removed."""
        self._write(_FILE, str(path))

    def done(self) -> None:
        """Nothing is to be undone."""
        self._write(_DONE, True)
        self.close()

    def close(self) -> None:
        """Without `done` before, all is to be undone."""
        os.close(self.writer)

    def _write(self, kind: str, value: object) -> None:
        with contextlib.suppress(BrokenPipeError):
            os.write(self.writer, json.dumps([kind, value]).encode() + b"\n")


class Entries(NamedTuple):
    """What was written when the writer had ended, or had closed its end."""

    pids: list[int]
    files: list[Path]
    is_done: bool

    def undo(self) -> None:
        """End the processes, remove the files. Idempotent."""
        for pid in self.pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        for path in self.files:
            with contextlib.suppress(OSError):
                path.unlink()


def settle(reader: int) -> Entries:
    """Wait for the end of it, and undo all that was told unless all was done."""
    entries = _read(reader)
    if not entries.is_done:
        entries.undo()
    return entries


def _read(reader: int) -> Entries:
    with os.fdopen(reader, "rb") as lines:
        entries: list[tuple[str, Any]] = [json.loads(line) for line in lines]
    pids = [value for kind, value in entries if kind == _PID]
    files = [Path(value) for kind, value in entries if kind == _FILE]
    return Entries(pids, files, any(kind == _DONE for kind, _ in entries))
