"""Processes of the bench: each with a time limit, and ended with the bench.

A process that waits for a hung FUSE server cannot be killed: it sleeps in the kernel until the server answers. So
before a process that is late is killed, `abort` is called, which must end the connections that it may wait for.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchlab.errors import BenchError

_END_S: Final = 10.0
_ENDS_WITH_US: Final = ("setpriv", "--pdeathsig", "KILL", "--")
"""A bench that is killed leaves no server and no client behind. What a process starts does not inherit this."""

Abort = Callable[[], None]


class Process:
    """One that runs beside us. `end` it in any case; `with` does."""

    def __init__(
        self,
        arguments: Sequence[str | Path],
        abort: Abort,
        core: int | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        texts = [str(argument) for argument in arguments]
        prefix = [*_ENDS_WITH_US, *([] if core is None else ["taskset", "-c", str(core)])]
        self._name = " ".join(texts[:2])
        self._abort = abort
        try:
            self._process = subprocess.Popen(
                [*prefix, *texts],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, **(environment or {})},
            )
        except OSError as error:
            raise BenchError(f"{texts[0]} cannot be started: {error.strerror}") from error

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def output(self, timeout_s: float) -> bytes:
        """What it printed, once it is done. Raises BenchError if it is late or failed."""
        try:
            out, error = self._process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            self.end()
            raise BenchError(f"{self._name} was not done after {timeout_s:.0f} s and was ended") from None
        if self._process.returncode:
            lines = error.decode(errors="replace").strip().splitlines() or [f"exit code {self._process.returncode}"]
            raise BenchError(f"{self._name} failed: {lines[-1]}")
        return out

    def line(self, timeout_s: float) -> str:
        """The next line that it prints. Byte by byte: what a buffer of ours held, `output` would not see. Raises
        BenchError if it is late or has ended."""
        assert self._process.stdout is not None
        descriptor, line, end_s = self._process.stdout.fileno(), b"", time.monotonic() + timeout_s
        while not line.endswith(b"\n"):
            if not select.select([descriptor], [], [], max(end_s - time.monotonic(), 0))[0]:
                self.end()
                raise BenchError(f"{self._name} said nothing within {timeout_s:.0f} s and was ended")
            byte = os.read(descriptor, 1)
            if not byte:
                self.output(timeout_s)
                raise BenchError(f"{self._name} has ended")
            line += byte
        return line.decode(errors="replace").rstrip("\n")

    def stop(self, timeout_s: float) -> bytes:
        """Ask it to end (SIGTERM); what it has printed since the last `line`. Raises BenchError if it is late or
        failed."""
        self._process.terminate()
        return self.output(timeout_s)

    def end(self) -> None:
        """End it, by force if need be."""
        if self.running:
            self._process.kill()
            try:
                self._process.wait(1.0)
            except subprocess.TimeoutExpired:
                self._abort()
                self._process.wait(_END_S)
        for pipe in (self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()


def run(
    arguments: Sequence[str | Path],
    abort: Abort,
    timeout_s: float,
    core: int | None = None,
    environment: Mapping[str, str] | None = None,
) -> bytes:
    """Run one to its end; what it printed."""
    with Process(arguments, abort, core, environment) as process:
        return process.output(timeout_s)


def run_json(arguments: Sequence[str | Path], abort: Abort, timeout_s: float, core: int | None = None) -> Any:
    """Run one that prints JSON."""
    return json.loads(run(arguments, abort, timeout_s, core))


def nothing_to_abort() -> None:
    """For processes that touch no mount."""


def is_alive(pid: int) -> bool:
    """Whether there is such a process, and it has not ended (as one that nobody waits for yet)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False
