"""VMs that are started in the background: each is a process of its own, without a terminal, and outlives us.

What such a QEMU says goes into a file that has no name; when it fails, its last words are in the sentence.
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import IO, Final, NamedTuple, NoReturn

from blockstore.daemon.host.mounts import Mount
from blockstore.errors import BlockstoreError, MountError, VmError, error_of
from blockstore.vm import apart
from blockstore.vm.fork import ledger
from blockstore.vm.fork.bring_up import START_S
from blockstore.vm.fork.ledger import Ledger
from blockstore.vm.qemu import qmp_sockets

QEMU_SPEAKS_S: Final = 0.2
"""A QEMU that fails closes its sockets before it says why."""

WARNING: Final = "blockstore: warning: "
"""How a line of our own begins (cli/output.py)."""

END_S: Final = 10.0
"""How long a VM may take to end in order when its fork has failed."""


def start_one(mount: Mount, name: str, become: Callable[[], NoReturn]) -> list[str]:
    """Starts a VM, and returns when its QEMU answers, with what `become` has warned of. Raises what it fails with, and
    then nothing is left behind."""
    watch, clones = Watch(), []
    try:
        launched = launch(name, 1, become, watch)
        import blockstore.vm.qemu.monitor as qmp  # asyncio, meanwhile

        clones.append(clone := settled(mount, launched))
        try:
            qmp.Monitor(
                qmp_sockets.path_of(mount.state, qmp_sockets.QMP, clone.volume), name, greeting_s=START_S
            ).close()
        except VmError as error:
            raise explained(clone, error) from None
    except BaseException:
        end(mount, clones)
        watch.give_up()
        raise
    watch.stand_down()
    return [line.removeprefix(WARNING) for line in _lines(clone.said) if line.startswith(WARNING)]


class Clone(NamedTuple):
    """A VM that runs; `pid` is the shell around its QEMU, `said` what that has written."""

    name: str
    number: int
    pid: int
    volume: int
    said: IO[bytes]


class Launched(NamedTuple):
    """A VM whose QEMU is about to start: `answer` ends then, with what it has failed with."""

    name: str
    number: int
    pid: int
    answer: IO[bytes]
    said: IO[bytes]


class Watch:
    """A process that ends the VMs, and removes their disks, when we are killed before all of them run."""

    def __init__(self) -> None:
        self.ledger = Ledger()
        reader = self.ledger.reader
        self._pid = apart.fork([reader], lambda: _undo_with_parent(reader))
        self.ledger.keep_writing()

    def enter(self) -> None:
        """Called by the process that becomes a VM."""
        self.ledger.process(os.getpid())

    def stand_down(self) -> None:
        """All run."""
        self.ledger.done()

    def give_up(self) -> None:
        """Undo what is left; it has been, afterwards."""
        self.ledger.close()
        os.waitpid(self._pid, 0)


def _undo_with_parent(reader: int) -> int:
    ledger.settle(reader)
    return 0


def launch(name: str, number: int, become: Callable[[], NoReturn], watch: Watch) -> Launched:
    """Begins to start a VM: `become` turns a new process, in a session of its own and without a terminal, into it."""
    said = tempfile.TemporaryFile()
    reader, writer = os.pipe()  # closed by exec
    pid = os.fork()
    if not pid:
        _become(name, become, said.fileno(), writer, watch)
    os.close(writer)
    return Launched(name, number, pid, os.fdopen(reader, "rb"), said)


def settled(mount: Mount, launched: Launched) -> Clone:
    """Its QEMU starts now, and waits for its device state then. Raises what it fails with."""
    with launched.answer as answer:
        failure = answer.read()
    if failure:
        os.waitid(os.P_PID, launched.pid, os.WEXITED | os.WNOWAIT)  # its number stays its own while we run
        raise error_of(failure[0])(failure[1:].decode(errors="replace"))
    try:
        volume = (mount.path / launched.name).stat().st_ino
    except OSError:
        raise VmError(f"{launched.name} ended at once: {_last_words(launched.said)}") from None
    return Clone(launched.name, launched.number, launched.pid, volume, launched.said)


def explained(clone: Clone, error: MountError) -> MountError:
    """Returns the error with what QEMU has said last, if it has said anything."""
    time.sleep(QEMU_SPEAKS_S)
    words = _last_words(clone.said)
    return type(error)(f"{error}; its QEMU said: {words}") if words else error


def _last_words(said: IO[bytes]) -> str:
    """What QEMU has failed with: it may have warned of something else before."""
    words = [line for line in _lines(said) if not line.startswith("blockstore: ")]
    return next((line for line in words if "warning: " not in line), next(iter(words), ""))


def _lines(said: IO[bytes]) -> list[str]:
    said.seek(0)
    return said.read().decode(errors="replace").strip().splitlines()


def end(mount: Mount, clones: Sequence[Clone]) -> None:
    """Ends VMs that we have started, and removes their memory files, those of --keep too. None of them is reaped: a
    number that is told to a process that undoes things must not be another's."""
    for clone in clones:
        os.kill(clone.pid, signal.SIGTERM)
    deadline = time.monotonic() + END_S
    for clone in clones:
        while not _has_ended(clone.pid) and time.monotonic() < deadline:
            time.sleep(0.02)
        if not _has_ended(clone.pid):
            os.kill(clone.pid, signal.SIGKILL)  # the controller cleans up
        with contextlib.suppress(OSError):
            path = mount.path / clone.name
            if path.stat().st_ino == clone.volume:
                path.unlink()


def _become(name: str, become: Callable[[], NoReturn], said: int, writer: int, watch: Watch) -> NoReturn:
    code = 1
    try:
        watch.enter()
        os.setsid()
        null = os.open(os.devnull, os.O_RDONLY)
        for target, source in ((0, null), (1, said), (2, said)):
            os.dup2(source, target)
        become()
    except BlockstoreError as error:
        code = error.exit_code
        os.write(writer, bytes([code]) + str(error).encode())
    except BaseException as error:
        os.write(writer, bytes([code]) + f"{name} cannot be started: {error!r}".encode())
    finally:
        os._exit(code)
    raise AssertionError


def _has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
