"""What a measurement changes on the machine, noted in a file before it is changed, and put back at the end.

If the bench is killed, the next one finds the file in the folder that was left and puts back what stands in it: the
settings of the kernel, swap, memory cgroups. Nothing is noted that others had made.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

FILE: Final = "undo.json"

_SWAPOFF_S: Final = 120.0
_REMOVE_S: Final = 5.0

Step = list[str]
"""["write", path, text], ["swapoff", device] or ["rmdir", path]."""


class Undo:
    """The steps back, the last one first; `with` takes them at the end, whatever happened. One at a time a folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._steps: list[Step] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        put_back(self._folder)
        self._steps.clear()

    def write(self, path: Path, text: str) -> None:
        """Change a setting; at the end it is again what it was before. Raises OSError."""
        self.write_at_end(path, _chosen(path.read_text()))
        path.write_text(text)

    def write_at_end(self, path: Path, text: str) -> None:
        """At the end, write this."""
        self._note(["write", str(path), text])

    def swap_off_at_end(self, device: Path) -> None:
        """At the end, stop to swap there."""
        self._note(["swapoff", str(device)])

    def remove_at_end(self, cgroup: Path) -> None:
        """At the end, remove this cgroup; its processes have ended then."""
        self._note(["rmdir", str(cgroup)])

    def _note(self, step: Step) -> None:
        self._steps.append(step)
        partial = self._folder / f"{FILE}.partial"
        partial.write_text(json.dumps(self._steps))
        partial.rename(self._folder / FILE)


def put_back(folder: Path) -> None:
    """Take the steps that are noted in this folder, if there are any. What cannot be put back does not keep the rest
    from it."""
    file = folder / FILE
    try:
        steps: list[Step] = json.loads(file.read_text())
    except (OSError, ValueError):
        return
    for kind, path, *text in reversed(steps):
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            if kind == "write":
                _write_unless_so(Path(path), text[0])
            elif kind == "swapoff":
                subprocess.run(["swapoff", path], capture_output=True, check=False, timeout=_SWAPOFF_S)
            elif kind == "rmdir":
                _remove(Path(path))
    file.unlink(missing_ok=True)


def _write_unless_so(path: Path, text: str) -> None:
    """Some settings (whose file is for writing only, or that do something when written) cannot be compared."""
    with contextlib.suppress(OSError):
        if _chosen(path.read_text()) == text:
            return
    path.write_text(text)


def _chosen(text: str) -> str:
    """Where a file lists all choices, the one in brackets; else its content."""
    return text.partition("[")[2].partition("]")[0] if "[" in text else text.strip()


def _remove(cgroup: Path) -> None:
    """A cgroup is busy for a moment after the end of its last process."""
    deadline = time.monotonic() + _REMOVE_S
    while cgroup.exists():
        try:
            cgroup.rmdir()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
