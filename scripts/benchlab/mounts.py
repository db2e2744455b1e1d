"""Mounts to measure on, blockstore's and the floor's, which leave nothing behind.

Mount points are in a temporary folder, state in /dev/shm; both folders bear our process id, so that a later run can
remove what a killed one left. Nothing here touches a file of a mount but through `processes`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from suitelab.identity import RUN

from benchlab import processes, programs, undo
from benchlab.errors import BenchError

PREFIX: Final = "blockstore-bench-"
ORDINARY: Final = ("prlimit", "--rtprio=0", "setpriv", "--bounding-set=-sys_nice", "--inh-caps=-sys_nice", "--")
"""Runs a command none of whose processes may take real-time priority, nor may root's."""

_STATES: Final = Path("/dev/shm")
_CONNECTIONS: Final = Path("/sys/fs/fuse/connections")
_COMMAND: Final = (sys.executable, "-m", "blockstore")
_MOUNT_S: Final = 30.0
_UMOUNT_S: Final = 60.0
_COMMAND_S: Final = 60.0


class Mount:
    """A mounted server. `with` unmounts it, ends its process and removes its state, whatever happened."""

    def __init__(self, path: Path, *, on_file: bool = False) -> None:
        self.path = path
        self.pid = 0
        self._on_file = on_file
        if on_file:
            path.touch()
        else:
            path.mkdir()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._unmount()
        if device_of(self.path):
            self.abort()
        if self.pid and not _gone(self.pid, 5.0):
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        with contextlib.suppress(OSError):
            self.path.unlink() if self._on_file else self.path.rmdir()

    @property
    def device(self) -> str:
        """MAJOR:MINOR."""
        device = device_of(self.path)
        if not device:
            raise BenchError(f"{self.path} is not mounted any more")
        return device

    def abort(self) -> None:
        """End the connection: whoever waits for the server gets an error."""
        abort(self.path)

    def _unmount(self) -> None:
        raise NotImplementedError


class StoreMount(Mount):
    """`blockstore mount`, which attaches only what `blockstore run` starts: other clients are not to be made smaller.
    With a `core` the daemon, all its threads, is pinned to it. `prefix` runs the command."""

    def __init__(
        self, folder: Workspace, name: str, *options: str, core: int | None = None, prefix: Sequence[str] = ()
    ) -> None:
        super().__init__(folder.mounts / name)
        self.state = folder.states / name
        command: list[str | Path] = [*prefix, *_COMMAND, "mount", self.path, "--state", self.state, *options]
        command += ["--attach", "none"]
        try:
            processes.run(command, self.abort, _MOUNT_S, core)
            self.pid = int(self.status()["total"]["daemon_pid"])
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def status(self) -> dict[str, Any]:
        """`blockstore status --json`."""
        report: dict[str, Any] = processes.run_json([*_COMMAND, "status", "--json", self.path], self.abort, _COMMAND_S)
        return report

    def _unmount(self) -> None:
        with contextlib.suppress(BenchError):
            processes.run([*_COMMAND, "umount", "--force", "--discard", self.path], self.abort, _UMOUNT_S)
        shutil.rmtree(self.state, ignore_errors=True)


class ServedMount(Mount):
    """A server that stays in the foreground until it is unmounted; it mounts over a folder, or over a file."""

    def __init__(
        self, path: Path, command: Sequence[str | Path], core: int | None = None, *, on_file: bool = False
    ) -> None:
        super().__init__(path, on_file=on_file)
        self._process = processes.Process(command, self.abort, core)
        self.pid = self._process.pid
        try:
            self._wait_mounted()
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def _wait_mounted(self) -> None:
        end_s = time.monotonic() + _MOUNT_S
        while not device_of(self.path):
            if not self._process.running:
                self._process.output(_MOUNT_S)
            if not self._process.running or time.monotonic() > end_s:
                raise BenchError(f"the server of {self.path.name} could not mount")
            time.sleep(0.02)

    def _unmount(self) -> None:
        subprocess.run(["umount", "--lazy", "--", self.path], capture_output=True, check=False, timeout=_UMOUNT_S)
        end_s = time.monotonic() + 2.0
        while self._process.running and time.monotonic() < end_s:
            time.sleep(0.02)
        self._process.end()


class FloorMount(ServedMount):
    """floor.c, with one file `file`."""

    def __init__(self, folder: Workspace, file_bytes: int, core: int | None) -> None:
        path = folder.mounts / "floor"
        super().__init__(path, [programs.floor(), path, str(file_bytes)], core)


class Workspace:
    """The two folders of this run, and `states`, on tmpfs, for other files too."""

    def __init__(self, mounts: Path, states: Path) -> None:
        self.mounts = mounts
        self.states = states


@contextlib.contextmanager
def workspace() -> Iterator[Workspace]:
    """Make the folders, and remove them at the end. Leftovers of killed runs go first."""
    for parent in (Path(tempfile.gettempdir()), _STATES):
        _remove_leftovers(parent)
    prefix = f"{PREFIX}{os.getpid()}-"
    with contextlib.ExitStack() as stack:
        folders = []
        for parent in (Path(tempfile.gettempdir()), _STATES):
            folder = Path(tempfile.mkdtemp(prefix=prefix, suffix=RUN, dir=parent))
            stack.callback(_remove, folder)
            folders.append(folder)
        yield Workspace(*folders)


def device_of(path: Path) -> str:
    """MAJOR:MINOR of the topmost mount at `path`, empty if there is none. Does not touch the mount."""
    found = ""
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        fields = line.split(" ")
        if fields[4] == str(path):
            found = fields[2]
    return found


@contextlib.contextmanager
def fuse_connections() -> Iterator[Path]:
    """The folder with one folder of switches for each FUSE mount; mounted for as long as it is needed, if it is not."""
    ours = False
    if not device_of(_CONNECTIONS):
        command = ["mount", "-t", "fusectl", "none", str(_CONNECTIONS)]
        ours = not subprocess.run(command, capture_output=True, check=False, timeout=_UMOUNT_S).returncode
    try:
        yield _CONNECTIONS
    finally:
        if ours:
            subprocess.run(["umount", _CONNECTIONS], capture_output=True, check=False, timeout=_UMOUNT_S)


def abort(path: Path) -> None:
    """End the FUSE connection of the mount at `path`, and take it out of the tree."""
    device = device_of(path)
    if not device:
        return
    with fuse_connections() as folder, contextlib.suppress(OSError):
        (folder / device.partition(":")[2] / "abort").write_text("1")
    # Where that file system cannot be mounted, umount's force does the same.
    subprocess.run(["umount", "--force", "--lazy", "--", path], capture_output=True, check=False, timeout=_UMOUNT_S)


def _remove_leftovers(parent: Path) -> None:
    for folder in parent.glob(f"{PREFIX}*-*"):
        pid = folder.name.removeprefix(PREFIX).partition("-")[0]
        if pid.isdigit() and not processes.is_alive(int(pid)):
            _remove(folder)


def _remove(folder: Path) -> None:
    """Remove one of our folders; what is still mounted in it is aborted first, and what its bench had changed on the
    machine is put back."""
    undo.put_back(folder)
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        path = Path(line.split(" ")[4])
        if path.parent == folder:
            abort(path)
    shutil.rmtree(folder, ignore_errors=True)


def _gone(pid: int, timeout_s: float) -> bool:
    end_s = time.monotonic() + timeout_s
    while processes.is_alive(pid):
        if time.monotonic() > end_s:
            return False
        time.sleep(0.05)
    return True
