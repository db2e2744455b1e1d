"""The companion: the controller's process (vm/control/controller.py), which the daemon starts, again when it ends.

It is not started before there is something for it to do: a mount without files has none, and 7 MB less.

It is a process of its own because it opens, writes back and evicts files of the mount: no thread of the daemon may ever
wait for the daemon, and nothing that it does may take time from the lane. Its stdin is a pipe that ends with the
daemon, and then so does it; the next daemon starts another one.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, Final

import trio

from blockstore.daemon.host.mounts import CONTROLLER_MODULE
from blockstore.daemon.options import MountOptions
from blockstore.daemon.supervise import lean
from blockstore.daemon.supervise.listening import listen
from blockstore.errors import MountError

log = logging.getLogger(__name__)

FIRST_DELAY_S: Final = 1.0
LONGEST_DELAY_S: Final = 60.0
"""Before it is started again; doubled each time that it has not lived longer than that."""

PORT_S: Final = 10.0
"""How long the metrics' port of a daemon that was replaced may take to be free."""

LOOK_S: Final = 0.5
END_S: Final = 1.0


class Companion:
    """Of one daemon."""

    def __init__(self, options: MountOptions, has_work: Callable[[], bool]) -> None:
        """`has_work` says whether there is anything to look after; the metrics are, too."""
        self._options = options
        self._has_work = has_work
        self._socket: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0

    @property
    def is_first(self) -> bool:
        """Whether the controller that runs is the first one of this daemon."""
        return self._starts <= 1

    @property
    def pid(self) -> int | None:
        """Its process, if it runs."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def bind(self) -> None:
        """Take the port for the metrics, if they are wanted. Raises MountError when it is not to be had."""
        if self._options.metrics is not None:
            self._socket = listen(*self._options.metrics)

    async def run(self) -> None:
        """Keep it running until cancelled."""
        delay_s = FIRST_DELAY_S
        await self._bind_again()
        try:
            while not (self._has_work() or self._options.metrics is not None):
                await trio.sleep(LOOK_S)
            while True:
                started = trio.current_time()
                try:
                    self._start()
                except OSError as error:  # the state was deleted or renamed, or there is no room for a process
                    log.error("the controller cannot be started: %s; trying again", error)
                while self.pid is not None:
                    await trio.sleep(LOOK_S)
                if self._process is not None:
                    log.error("the controller ended (exit code %s); starting another one", self._process.returncode)
                lived_s = trio.current_time() - started
                delay_s = FIRST_DELAY_S if lived_s > LONGEST_DELAY_S else min(delay_s * 2, LONGEST_DELAY_S)
                await trio.sleep(delay_s)
        finally:
            self._end()

    async def _bind_again(self) -> None:
        """After a handover the port may still be the old controller's for a moment."""
        if self._socket is not None or self._options.metrics is None:
            return
        with trio.move_on_after(PORT_S):
            while True:
                try:
                    # In a thread: to resolve a name may take longer than VMs may wait.
                    self._socket = await trio.to_thread.run_sync(listen, *self._options.metrics, abandon_on_cancel=True)
                    return
                except MountError as error:
                    log.info("%s", error)
                    await trio.sleep(LOOK_S)
        log.error("the port of the metrics was not free within %.0f s: there are none", PORT_S)

    def _start(self) -> None:
        self._starts += 1
        arguments = [self._options.state, self._options.mountpoint]
        if self._socket is None:
            command, environment = lean.command(CONTROLLER_MODULE, *arguments), lean.environment()
        else:
            command = [sys.executable, "-m", CONTROLLER_MODULE, *arguments, str(self._socket.fileno())]
            environment = dict(os.environ)
        if self._process is not None and self._process.stdin is not None:
            self._process.stdin.close()
        self._process = None
        with _open_log(Path(self._options.state) / "daemon.controller") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=None if self._options.foreground else errors,
                pass_fds=[self._socket.fileno()] if self._socket is not None else [],
                start_new_session=True,
                cwd="/",
                env=environment,
            )

    def _end(self) -> None:
        """It has nothing that would have to be closed."""
        if self._process is not None:
            self._process.kill()
        if self._socket is not None:
            self._socket.close()
            if self._process is not None:  # the next mount may want the port at once
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(END_S)


def _open_log(path: Path) -> BinaryIO:
    """It names VMs: for nobody else to read, whatever the umask is."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600), "ab")
