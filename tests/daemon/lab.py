"""The mounts of the tests: made in a workspace, used within time limits, and removed whatever happened.

Whoever touches a mount whose daemon hangs cannot be killed until the connection is aborted. So nothing here waits
without a limit: a command that does not end is killed, and if that does not help, the workspaces' connections are
aborted (/sys/fs/fuse/connections/N/abort). Only daemons whose command line names the workspace are ended.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pickle
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import pytest
from benchlab.peers.ports import Port
from suitelab.identity import WORKSPACE_PREFIX

from blockstore.daemon.control import client
from blockstore.daemon.host import process_stat
from tests.cli.runner import invoke
from tests.daemon.logs import Logs
from tests.store.material import near, noise, text

PROJECT: Final = Path(__file__).parents[2]
SHM: Final = Path("/dev/shm")

NEEDS_QEMU: Final = pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="needs qemu-system-x86_64")

COMMAND_S: Final = 120.0
UNTIL_S: Final = 60.0
"""How long anything may take that certainly happens. It ends a test that would hang, and is no measure: a machine that
others use too is slower by a factor of ten now and then."""
KILL_S: Final = 30.0
"""How long a killed process may take to go before the connections are aborted."""

_workspaces: set[Path] = set()


class Lab:
    """A workspace: a fresh folder for mountpoints and states, and the mounts made in it."""

    path: Path

    def __init__(self) -> None:
        self.mounted: Mounted | None = None
        self._ports: list[Port] = []
        self.open()

    def open(self) -> None:
        """Make the folder; done at first, and needed again only after `close`."""
        # The path is resolved, as it stands in mountinfo and in the command lines of daemons.
        folder = tempfile.mkdtemp(prefix=WORKSPACE_PREFIX, dir=SHM if SHM.is_dir() else None)
        self.path = Path(folder).resolve()
        self.mounted = None
        _workspaces.add(self.path)
        LOGS.watch(self.path)

    def port(self) -> int:
        """A port to listen at, which is nobody else's while the workspace is open."""
        self._ports.append(Port())
        return self._ports[-1].number

    def mountpoint(self, name: str = "mnt") -> Path:
        """An empty directory to mount on."""
        path = self.path / name
        if not mounts_below(path):
            path.mkdir(exist_ok=True)
        return path

    def mount(self, *options: str, name: str = "mnt", state: Path | None = None, pool_limit: str = "512M") -> Mounted:
        """Mount with a state in the workspace, NAME.state if not said otherwise. VMs are attached by those tests only
        that ask for it: in all others processes play VMs that nobody is to make smaller."""
        place = Mounted(self.mountpoint(name), state or self.path / f"{name}.state")
        command = ["mount", str(place.path), "--state", str(place.state), "--pool-limit", pool_limit]
        unattached = () if "--attach" in options else ("--attach", "none")
        result = blockstore(*command, *options, *unattached)
        known = "when memory is short the daemon may be"
        warned = [line for line in result.stderr.splitlines() if known not in line]
        assert result.returncode == 0 and not warned, result
        self.mounted = place
        LOGS.watch(self.path, place.state)
        return place

    def close(self) -> None:
        """Remove mounts, daemons and files; idempotent."""
        for mount_path in reversed(mounts_below(self.path)):
            with contextlib.suppress(AssertionError):
                run(["umount", "--", str(mount_path)], timeout_s=KILL_S)
        if mounts_below(self.path):
            time.sleep(0.5)  # whoever was just killed may still hold a file
            abort_below(self.path)
            for mount_path in reversed(mounts_below(self.path)):
                run(["umount", "-l", "--", str(mount_path)])
        for pid in supervisors_of(self.path) + daemons_of(self.path):
            if not ended(pid, KILL_S):
                os.kill(pid, signal.SIGKILL)
                assert ended(pid, KILL_S), f"daemon {pid} cannot be killed"
        while self._ports:
            self._ports.pop().close()
        LOGS.forget(self.path)
        _workspaces.discard(self.path)
        shutil.rmtree(self.path, ignore_errors=True)


class Mounted:
    """One mount, as its user sees it."""

    def __init__(self, path: Path, state: Path) -> None:
        self.path = path
        self.state = state

    def status(self) -> dict[str, Any]:
        """`status --json`."""
        result = invoke("status", self.path, "--json")
        assert result.returncode == 0, result
        report: dict[str, Any] = json.loads(result.stdout)
        return report

    def total(self) -> dict[str, Any]:
        """The total of `status --json`."""
        total: dict[str, Any] = self.status()["total"]
        return total

    def controller_pid(self) -> int:
        """The controller, which the daemon starts when there is a file."""
        pids: list[int | None] = [None]

        def runs() -> bool:
            pids[0] = self.total()["controller_pid"]
            return pids[0] is not None

        until(runs, "the controller runs")
        assert pids[0] is not None
        return pids[0]

    def controller_ticks(self, count: int = 3) -> None:
        """Wait until the controller has looked at the VMs so many times more; `count - 1` looks are over then. Also
        where the mount is detached."""

        def ticks() -> int:
            return int(client.ask(self.state, {"do": "status"})["controller_ticks"])

        enough = ticks() + count
        until(lambda: ticks() >= enough, f"the controller looks {count} times")

    def evict(self, *names: str) -> subprocess.CompletedProcess[str]:
        """`evict`, which must work."""
        result = blockstore("evict", str(self.path), *names)
        assert result.returncode == 0, result
        return result

    def umount(self, *options: str) -> subprocess.CompletedProcess[str]:
        """`umount`, whatever comes of it."""
        return blockstore("umount", str(self.path), *options)

    def daemon_pid(self) -> int:
        """From its command line; the only daemon with this state. What it is about to start still has that, too."""
        pids: list[int] = []

        def is_one() -> bool:
            pids[:] = daemons_of(self.state)
            return len(pids) == 1

        until(is_one, "there is one daemon")
        return pids[0]

    def serves(self) -> bool:
        """Is it there, and does it answer?"""
        try:
            return (
                bool(mounts_below(self.path)) and run(["stat", "-f", str(self.path)], timeout_s=KILL_S).returncode == 0
            )
        except AssertionError:
            return False

    def log(self) -> str:
        """The daemon's log."""
        return (self.state / "daemon.log").read_text()

    def supervisor_pid(self) -> int:
        """From its command line; the only supervisor with this state."""
        (pid,) = supervisors_of(self.state)
        return pid

    def kill_daemon(self) -> int:
        """kill -9 the daemon, which the supervisor replaces; the one that died."""
        LOGS.expect(r"supervisor: the daemon died \(signal 9\)")
        pid = self.daemon_pid()
        os.kill(pid, signal.SIGKILL)
        assert ended(pid, KILL_S)
        return pid

    def kill(self) -> None:
        """kill -9 supervisor and daemon: nobody holds the mount any more."""
        for pid in (self.supervisor_pid(), self.daemon_pid()):
            os.kill(pid, signal.SIGKILL)
            assert ended(pid, KILL_S)
        # The controller may have been about to start: a process that has the daemon's sockets until it runs another
        # program, and then nobody answers those whom it lets connect.
        until(lambda: client.is_refused(self.state), "nobody listens")


def blockstore(*arguments: str, timeout_s: float = COMMAND_S, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the command line."""
    LOGS.find()
    return run([sys.executable, "-m", "blockstore", *arguments], timeout_s, **environment)


def run(command: Sequence[str], timeout_s: float = COMMAND_S, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command that may hang. Raises AssertionError when it does, and nothing of it is left then."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="surrogateescape",
        start_new_session=True,
        cwd=PROJECT,
        env={**os.environ, **environment},
    )
    try:
        output, errors = process.communicate(timeout=timeout_s)
    except BaseException as error:
        end(process.pid)
        if not isinstance(error, subprocess.TimeoutExpired):
            raise
        output, errors = process.communicate(timeout=KILL_S)
        raise AssertionError(
            f"{command} did not end within {timeout_s:g} s: {output[-2000:]}{errors[-2000:]}"
        ) from None
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def spawn(script: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a Python program with a pipe to and from it; `said` reads its lines, `end` ends it."""
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        bufsize=1,
        cwd=PROJECT,
        start_new_session=True,
    )


def said(process: subprocess.Popen[str], timeout_s: float = COMMAND_S) -> str:
    """The next line that the program printed. Byte by byte: a line in a buffer of ours is none in the pipe."""
    assert process.stdout is not None
    line, deadline = b"", time.monotonic() + timeout_s
    while not line.endswith(b"\n"):
        assert readable(process.stdout.fileno(), max(deadline - time.monotonic(), 0)), "the program says nothing"
        byte = os.read(process.stdout.fileno(), 1)
        if not byte:
            break
        line += byte
    return line.decode().strip()


@contextlib.contextmanager
def ready(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    """A program of `spawn` that has said "ready"; it is ended afterwards, whatever happened."""
    try:
        assert said(process) == "ready"
        yield process
    finally:
        end(process.pid)
        process.wait(KILL_S)


def ask(process: subprocess.Popen[str], line: str) -> str:
    """Send a line, get one."""
    assert process.stdin is not None
    process.stdin.write(line + "\n")
    return said(process)


def end(pid: int) -> None:
    """Kill a process group that we started; if it cannot die, abort the connections of all workspaces."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
    if not ended(pid, KILL_S):
        for workspace in _workspaces:
            abort_below(workspace)


def stop(pid: int) -> None:
    """SIGSTOP, and wait until the process stands still: what it has asked the kernel for comes to its end before."""
    os.kill(pid, signal.SIGSTOP)
    stat = Path(f"/proc/{pid}/stat")
    until(lambda: stat.read_text().rpartition(")")[2].split()[0] == "T", f"process {pid} stands still")


def ended(pid: int, timeout_s: float = UNTIL_S) -> bool:
    """Does the process end within this time?"""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return readable(descriptor, timeout_s)
    finally:
        os.close(descriptor)


def readable(descriptor: int, timeout_s: float) -> bool:
    """Does the descriptor become readable within this time? Not by select(2), which knows a thousand of them only."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(timeout_s * 1000))


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for something that happens in its own time."""
    deadline = time.monotonic() + UNTIL_S
    while not condition():
        assert time.monotonic() < deadline, f"{what}: not within {UNTIL_S:g} s"
        time.sleep(0.05)


def apart(function: Callable[[], None], timeout_s: float, errors: list[str] | None = None) -> None:
    """Call the function in a child process; what it raises, skips included, is raised here. `errors` gets those that
    came into the logs meanwhile."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(reader)
            os.setsid()
            os.write(writer, pickle.dumps(_outcome(function)))
        finally:
            os._exit(0)  # whatever happened: a child that went on would be a second run of all tests
    os.close(writer)
    try:
        answer = _read_all(reader, timeout_s)
    finally:
        os.close(reader)
        end(pid)
        os.waitpid(pid, 0)
    if errors is not None:
        errors += LOGS.errors()
    if not answer:
        pytest.fail(f"the test did not end within {timeout_s:g} s, or died", pytrace=False)
    kind, message, others, expected = pickle.loads(answer)
    if errors is not None:
        LOGS.expected += expected
        errors += [error for error in others if error not in errors]
    if kind == "skipped":
        pytest.skip(message)
    if kind == "failed":
        pytest.fail(message, pytrace=False)


def _outcome(function: Callable[[], None]) -> tuple[str, str, list[str], list[str]]:
    """Also the errors in logs, of which those of a state that the test has deleted can be seen only here, and those
    that it expects."""
    kind, message = "passed", ""
    try:
        function()
    except pytest.skip.Exception as skipped:
        kind, message = "skipped", str(skipped)
    except BaseException:
        kind, message = "failed", traceback.format_exc()[-60_000:]
    return kind, message, LOGS.errors(), LOGS.expected


def _read_all(reader: int, timeout_s: float) -> bytes:
    """Everything up to the end of the pipe; nothing if that does not come in time."""
    data, deadline = b"", time.monotonic() + timeout_s
    while readable(reader, max(deadline - time.monotonic(), 0)):
        part = os.read(reader, 1 << 16)
        if not part:
            return data
        data += part
        with contextlib.suppress(pickle.UnpicklingError, EOFError):
            pickle.loads(data)
            return data  # whole; a process that the test left behind may keep the pipe open
    return b""


def mounts_below(folder: Path) -> list[Path]:
    """The mounts at and below a folder, in the order in which they were made."""
    return [path for path, _, _ in _mountinfo() if path == folder or folder in path.parents]


LOGS: Final = Logs(mounts_below)
"""Of all workspaces."""


def device_of(path: Path) -> str:
    """MAJOR:MINOR of the mount at this path."""
    return next(device for mounted, device, _ in reversed(_mountinfo()) if mounted == path)


def abort_below(folder: Path) -> None:
    """Abort the FUSE connections of all mounts below a folder: whoever waits for them gets an error."""
    minors = [
        device.partition(":")[2]
        for path, device, kind in _mountinfo()
        if folder in path.parents and kind.startswith("fuse")
    ]
    if not minors:
        return
    control = Path("/sys/fs/fuse/connections")
    mounted_here = not os.listdir(control)
    if mounted_here:
        control = Path(tempfile.mkdtemp(prefix=f"{WORKSPACE_PREFIX}fusectl-"))
        subprocess.run(["mount", "-t", "fusectl", "none", str(control)], check=True)
    try:
        for minor in minors:
            with contextlib.suppress(OSError):
                (control / minor / "abort").write_text("1")
    finally:
        if mounted_here:
            subprocess.run(["umount", "-l", str(control)], check=True)
            control.rmdir()


def _mountinfo() -> list[tuple[Path, str, str]]:
    found = []
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        fields = line.split(" ")
        path = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[4])
        found.append((Path(path), fields[2], fields[fields.index("-") + 1]))
    return found


def end_daemons_with(text: str) -> None:
    """Kill what serves states whose path has this text in it, and take the mounts away: what a failed test left."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ProcessLookupError):
            command = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            if b"blockstore.daemon" in command and text.encode() in command:
                os.kill(int(entry.name), signal.SIGKILL)
    for path, _, _ in _mountinfo():
        if text in str(path):
            subprocess.run(["umount", "-l", str(path)], check=False, timeout=20)


def daemons_of(place: Path) -> list[int]:
    """The processes of daemons whose command line names this state, or a state below this folder."""
    return _processes_of(place, b"blockstore.daemon")


def supervisors_of(place: Path) -> list[int]:
    """The processes of their supervisors."""
    return _processes_of(place, b"blockstore.daemon.supervise.supervisor")


def _processes_of(place: Path, module: bytes) -> list[int]:
    pids = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            command = process_stat.command(int(entry.name))
            named = module in command and Path(json.loads(command[-2])["state"])
        except (ValueError, IndexError, KeyError, TypeError):
            continue
        if named and (named == place or place in named.parents):
            pids.append(int(entry.name))
    return pids


# What files are filled with, and how they are read.


def noisy(size_bytes: int, seed: object) -> bytes:
    """What nothing compresses."""
    return random.Random(f"{seed}").randbytes(size_bytes)


def mixed_blocks(seed: int) -> list[bytes]:
    """32 blocks of each kind: zero, incompressible, compressible, similar to those; some twice."""
    texts = [text(1000 * seed + number) for number in range(32)]
    noises = [noise(1000 * seed + number) for number in range(32)]
    patched = [near(block, number) for number, block in enumerate(texts)]
    return [bytes(4096)] * 32 + texts + noises + patched + noises[:16] + texts[:16]


def put(path: Path, data: bytes) -> None:
    """Write a file and wait until it is in the store."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def append(path: Path, data: bytes) -> None:
    """Write behind the end of a file and wait until it is in the store."""
    with path.open("ab") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def drop(path: Path) -> None:
    """Write the file's pages back and take them out of the page cache."""
    descriptor = os.open(path, os.O_RDWR)
    try:
        os.fsync(descriptor)
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def cold(path: Path) -> bytes:
    """The file's content as the store gives it, not the page cache."""
    drop(path)
    return path.read_bytes()


def sha256(path: Path) -> str:
    return hashlib.sha256(cold(path)).hexdigest()


def tree(folder: Path) -> Iterator[Path]:
    """Everything below a folder, sorted."""
    yield from sorted(folder.rglob("*"))


def one_line(result: subprocess.CompletedProcess[str], code: int, *named: object) -> None:
    """The command failed with this code and one line on stderr that names these things."""
    assert result.returncode == code, result
    assert result.stderr.count("\n") == 1 and result.stderr.startswith("blockstore: "), result
    assert "Traceback" not in result.stderr and not result.stdout, result
    for thing in named:
        assert str(thing) in result.stderr, result
