"""QMP, one command at a time, each with a deadline. The only module that knows `qemu.qmp`, which is asyncio.

The event loop runs only while a command does. Never to be imported by daemon or controller, which live long: it takes
10 MB.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from qemu.qmp import ExecuteError, QMPClient, QMPError

from blockstore.errors import VmError
from blockstore.vm.qemu.sockets import connect

ANSWER_S: Final = 10.0
"""How long QEMU may take to answer a command. It takes milliseconds; on a host that swaps, seconds."""

CLOSE_S: Final = 1.0

GREETINGS: Final = 3
"""How often a connection is tried that QEMU closes before it has greeted. QEMU 7.2 does so now and then (once in some
hundred) when the client before has just gone, and takes the next one."""

GREETING_RETRY_S: Final = 0.1

POLL_S: Final = 0.002
"""Between two looks at a migration or a job, most of which take 10 to 30 ms."""


Command = tuple[str, dict[str, Any]]
"""Its name and its arguments."""

LET_GO_ON: Final[Command] = ("cont", {})

STOPPED_BY_ITSELF: Final = ("io-error", "guest-panicked", "watchdog", "internal-error", "shutdown")
"""What `query-status` says of a VM that has stopped by itself: its owner decides whether it goes on."""


class Refused(VmError):
    """QEMU has answered, and will not do it."""


class Gone(VmError):
    """QEMU has closed the connection, or ended."""


class Monitor:
    """A connection to the QMP socket of one VM, called `vm` in messages."""

    def __init__(self, path: Path, vm: str, *, greeting_s: float | None = None) -> None:
        """Connect, and wait for QEMU's greeting. Raises VmError."""
        self._vm = vm
        self._path = path
        self._loop = asyncio.new_event_loop()
        log = logging.getLogger("qemu.qmp")  # it tells what we tell in our own words
        log.addHandler(logging.NullHandler())
        log.propagate = False
        self._client = QMPClient(vm)
        self.connection = connect(path, vm)
        try:
            self._greet(greeting_s or ANSWER_S)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def execute(self, command: str, arguments: dict[str, Any] | None = None) -> Any:
        """The `return` of the answer, which comes within ANSWER_S. Raises Refused, VmError."""
        return self._run(self._client.execute(command, arguments), ANSWER_S, command)

    def pass_descriptor(self, descriptor: int, name: str) -> None:
        """Give QEMU a descriptor, for `fd:NAME`. Raises VmError."""
        self._execute_with(descriptor, "getfd", {"fdname": name})

    def add_descriptor(self, descriptor: int, number: int) -> None:
        """Give QEMU a descriptor, as the file /dev/fdset/NUMBER. Raises VmError."""
        self._execute_with(descriptor, "add-fd", {"fdset-id": number})

    def wait_for_job(self, name: str, timeout_s: float) -> str | None:
        """Until it has ended, or there is none; what it has failed with. QEMU answers nothing while it saves devices.
        Raises VmError when it takes longer."""
        deadline = time.monotonic() + timeout_s
        while True:
            left_s = max(deadline - time.monotonic(), ANSWER_S)
            jobs = self._run(self._client.execute("query-jobs"), left_s, "query-jobs")
            job: dict[str, Any] = next((each for each in jobs if each["id"] == name), {"status": "concluded"})
            if job["status"] == "concluded":
                return job.get("error")
            if time.monotonic() > deadline:
                raise VmError(f"the devices of {self._vm} were not saved within {timeout_s:g} s")
            time.sleep(POLL_S)

    def wait_for_migration(self, timeout_s: float) -> None:
        """Until the one that comes in is done. Raises VmError when it fails or takes longer."""
        deadline = time.monotonic() + timeout_s
        while (found := self.execute("query-migrate")).get("status") != "completed":
            if found.get("status") in ("failed", "cancelled", "cancelling"):
                reason = found.get("error-desc") or "QEMU does not say why"
                raise VmError(f"the device state of {self._vm} could not be moved: {reason}")
            if time.monotonic() > deadline:
                raise VmError(f"the device state of {self._vm} was not moved within {timeout_s:g} s")
            time.sleep(POLL_S)

    def close(self) -> None:
        """Idempotent; waits for nothing longer than CLOSE_S."""
        if self._loop.is_closed():
            return
        with contextlib.suppress(Exception):
            self._loop.run_until_complete(asyncio.wait_for(self._client.disconnect(), CLOSE_S))
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        with contextlib.suppress(Exception):
            self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()
        self.connection.close()

    def _greet(self, timeout_s: float) -> None:
        for tries_left in reversed(range(GREETINGS)):
            try:
                self._run(self._client.connect(self.connection), timeout_s, "greet")
                return
            except Gone:
                if not tries_left:
                    raise
            time.sleep(GREETING_RETRY_S)
            self.connection.close()
            self._client, self.connection = QMPClient(self._vm), connect(self._path, self._vm)

    def _execute_with(self, descriptor: int, command: str, arguments: dict[str, Any]) -> None:
        try:
            self._client.send_fd_scm(descriptor)
        except (OSError, QMPError) as error:
            raise self._gone(command, error) from None
        self.execute(command, arguments)

    def _run(self, work: Any, timeout_s: float, what: str) -> Any:
        try:
            return self._loop.run_until_complete(asyncio.wait_for(work, timeout_s))
        except TimeoutError:
            raise VmError(
                f"the QEMU of {self._vm} did not answer {what} at {self._path} within {timeout_s:g} s; is somebody "
                "else connected there, is it stopped, or does it wait for room in the pool (`blockstore status`)?"
            ) from None
        except ExecuteError as error:
            raise Refused(f"the QEMU of {self._vm} refuses {what}: {str(error).rstrip('.')}") from None
        except (OSError, EOFError, QMPError) as error:
            raise self._gone(what, error) from None

    def _gone(self, what: str, error: BaseException) -> Gone:
        return Gone(f"the QEMU of {self._vm} closed {self._path} at {what}: {error or type(error).__name__}")
