"""The mount of a soak, the loads that use it, and the death of its daemon."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from suitelab.identity import RUN

from blockstore.daemon.host import process_stat
from blockstore.daemon.supervise import phase

PREFIX: Final = f"blockstore-soak-{RUN}"
"""Of the folder of a soak."""

COMMAND_S: Final = 120.0
"""How long a command on the mount may take at most, restarts included."""

RESTART_S: Final = 30.0


class SoakError(Exception):
    """Something was lost, or died, or hangs."""


@contextlib.contextmanager
def mounted(stored_bytes: int) -> Iterator[tuple[Path, Path]]:
    """A mount whose pool holds so much and a GiB more, and its state; nothing of either is left. Raises SoakError."""
    workspace = Path(tempfile.mkdtemp(prefix=PREFIX, dir="/dev/shm"))
    mount, state = workspace / "mount", workspace / "state"
    mount.mkdir()
    try:
        result = blockstore("mount", str(mount), "--state", str(state), "--pool-limit", f"{stored_bytes + (1 << 30)}")
        if result.returncode:
            raise SoakError(result.stderr)
        try:
            yield mount, state
        finally:
            if blockstore("umount", str(mount), "--discard").returncode:
                blockstore("umount", "--force", str(mount))
    finally:
        shutil.rmtree(workspace, ignore_errors=True)


@contextlib.contextmanager
def running_load(kind: str, mount: Path, seed: int) -> Iterator[subprocess.Popen[str]]:
    """A load of loads.py on the file or folder of its name."""
    command = [sys.executable, "-m", "soaklab.loads", kind, str(mount / kind), str(seed)]
    with running(command) as process:
        yield process


@contextlib.contextmanager
def running(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A process that is killed at the end, with its children, if it still runs."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait(COMMAND_S)


def end_load(kind: str, process: subprocess.Popen[str]) -> Any:
    """Ends a load; returns what it says that it did. Raises SoakError."""
    process.terminate()
    try:
        output, errors = process.communicate(timeout=COMMAND_S)
    except subprocess.TimeoutExpired:
        raise SoakError(f"the load {kind!r} did not end within {COMMAND_S:.0f} s") from None
    if process.returncode:
        raise SoakError(f"the load {kind!r} failed (exit code {process.returncode}): {errors[-3000:]}")
    return json.loads(output)


def said(process: subprocess.Popen[str]) -> str:
    """Returns the end of what a process that has ended wrote to stderr."""
    _, errors = process.communicate(timeout=COMMAND_S)
    return errors[-3000:].strip()


def await_service(state: Path, last_pid: int) -> None:
    """Waits until another daemon than that with the process id `last_pid` serves. Raises SoakError."""
    deadline = time.monotonic() + RESTART_S
    while time.monotonic() < deadline:
        pids = _daemons(state)  # before the phase, which is "serving" still when the last one has just died
        now = phase.load(state)
        if pids and last_pid not in pids and now is not None and now.name == "serving":
            return
        time.sleep(0.005)
    raise SoakError(f"no daemon served again within {RESTART_S:.0f} s; {phase.load(state)}; {_last_log(state)}")


def kill_daemon(state: Path) -> int:
    """Kills with SIGKILL; the daemon may be in any part of its life, or just being started. Returns its process id.

    Raises SoakError.
    """
    deadline = time.monotonic() + RESTART_S
    while time.monotonic() < deadline:
        for pid in _daemons(state):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                return pid
        time.sleep(0.005)
    raise SoakError(f"no daemon was started within {RESTART_S:.0f} s; {phase.load(state)}; {_last_log(state)}")


def _last_log(state: Path) -> str:
    """The end of the daemon's log, which is deleted with the state."""
    return "the log ends with:\n" + "\n".join((state / "daemon.log").read_text().splitlines()[-20:])


def _daemons(state: Path) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(ValueError):
            command = process_stat.command(int(entry.name))
            if b"blockstore.daemon" in command and json.loads(command[-2])["state"] == str(state):
                found.append(int(entry.name))
    return found


def status(mount: Path) -> dict[str, Any]:
    """Returns the total of `status --json`. Raises SoakError."""
    result = blockstore("status", str(mount), "--json")
    if result.returncode:
        raise SoakError(result.stderr)
    total: dict[str, Any] = json.loads(result.stdout)["total"]
    return total


def blockstore(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the command line."""
    return subprocess.run(
        [sys.executable, "-m", "blockstore", *arguments],
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
        check=False,
    )
