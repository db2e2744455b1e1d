"""Runs the commands of a suite, and ends them when the run is interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

PROJECT: Final = Path(__file__).parents[2]
BIN: Final = Path(sys.executable).parent

END_S: Final = 40.0
"""How long an interrupted command may take to remove what it made: a workspace's mounts have 10 s each."""


class Command:
    """A command that runs in the project's folder. It has a session of its own: only `end` interrupts it."""

    def __init__(self, arguments: Sequence[str], environment: Mapping[str, str], log: Path | None) -> None:
        """Starts it. With `log`, its output goes to this file, and otherwise to the terminal."""
        self._log = log
        with (log or Path(os.devnull)).open("wb") as file:
            self._process = subprocess.Popen(
                arguments,
                stdin=subprocess.DEVNULL,
                stdout=file if log else None,
                stderr=subprocess.STDOUT if log else None,
                cwd=PROJECT,
                env={**os.environ, **environment, "PATH": f"{BIN}:{os.environ['PATH']}"},
                start_new_session=True,
            )

    def code(self, timeout_s: float | None = None) -> int:
        """Waits for its end. Returns the exit code. Raises subprocess.TimeoutExpired."""
        return self._process.wait(timeout_s)

    def said(self) -> str:
        """Returns what it wrote to its log."""
        return self._log.read_text(errors="replace") if self._log else ""

    def end(self) -> None:
        """Interrupts it if it still runs, and kills its session when it does not end."""
        if self._process.poll() is not None:
            return
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


@contextmanager
def started(arguments: Sequence[str], environment: Mapping[str, str], log: Path | None = None) -> Iterator[Command]:
    """Starts a command. At the end of the block it runs no longer."""
    command = Command(arguments, environment, log)
    try:
        yield command
    finally:
        command.end()
