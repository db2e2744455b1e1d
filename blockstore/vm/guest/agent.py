"""Commands in a guest, by its agent (qemu-ga(8)), which listens at the virtio serial port org.qemu.guest_agent.0.

The agent answers one line of JSON with one (docs/interop/qemu-ga.rst of QEMU). It knows no end of a connection: what a
client before us did not read may still come, so each connection begins with guest-sync-delimited.
"""

from __future__ import annotations

import base64
import json
import os
import re
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from blockstore.errors import InputError, VmError
from blockstore.vm.qemu.recorded_arguments import pairs
from blockstore.vm.qemu.running import Running
from blockstore.vm.qemu.sockets import connect

PORT: Final = "org.qemu.guest_agent.0"

SYNC_S: Final = 10.0
"""How long an agent may take to say that it is there; one that is not started says nothing."""

ANSWER_S: Final = 10.0
FIRST_LOOK_S: Final = 0.01
LONGEST_LOOK_S: Final = 0.5
"""From one look whether a command has ended to the next, each twice as long."""

MOST_ANSWER_BYTES: Final = 64 << 20
"""The agent keeps 16 MiB of a command's output, which base64 makes a third longer, and of its errors."""

_PIECE_BYTES: Final = 1 << 20
_DELIMITER: Final = b"\xff"


class Done(NamedTuple):
    """What came of a command: `code` is 128 + the signal if one has ended it; `is_cut` says that output is missing."""

    code: int
    output: bytes
    errors: bytes
    is_cut: bool


def path_of(vm: Running) -> Path:
    """Returns where the agent of a VM is reached. Raises InputError for a VM without one, VmError."""
    from blockstore.vm.qemu.monitor import Monitor  # asyncio, only where it is needed

    label = port_of(vm.command)
    if not label:
        raise InputError(
            f"{vm.name} has no port for a guest agent; start it with -device virtio-serial -chardev "
            f"socket,id=agent,path=PATH,server=on,wait=off -device virtserialport,chardev=agent,name={PORT}"
        )
    with Monitor(vm.socket, vm.name) as monitor:
        chardevs: list[dict[str, Any]] = monitor.execute("query-chardev")
    name = next((str(each["filename"]) for each in chardevs if each["label"] == label), "")
    found = re.search(r"unix:(.*?)(,server(=on)?)?$", name)
    if not found or not found[1]:
        raise InputError(
            f"the guest agent of {vm.name} is at '{name or label}', and only a socket with a path is reached"
        )
    path = Path(found[1])
    return path if path.is_absolute() else Path(vm.folder) / path


def port_of(command: Sequence[str]) -> str:
    """Returns the id of the character device behind the agent's port; empty without one."""
    for option, value in pairs(command):
        if option != "-device":
            continue
        fields = (
            _parsed(value.encode())
            if value.startswith("{")
            else dict(part.partition("=")[::2] for part in value.split(","))
        )
        if fields.get("name") == PORT:
            return str(fields.get("chardev", ""))
    return ""


class Agent:
    """A connection to one. Raises VmError when it does not answer."""

    def __init__(self, path: Path, vm: str) -> None:
        self._vm = vm
        self._connection = connect(path, vm)
        self._connection.setblocking(True)
        self._pending = bytearray()
        try:
            self._sync()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._connection.close()

    def run(self, command: Sequence[str], wait: Callable[[float], None] = time.sleep) -> Done:
        """Runs a program in the guest, and returns when it has ended. Raises VmError."""
        path, *arguments = command
        started = self._execute("guest-exec", {"path": path, "arg": arguments, "capture-output": True}, "pid")
        wait_s = FIRST_LOOK_S
        while not (status := self._execute("guest-exec-status", {"pid": started["pid"]}, "exited"))["exited"]:
            wait(wait_s)
            wait_s = min(2 * wait_s, LONGEST_LOOK_S)
        code = 128 + status["signal"] if "signal" in status else status.get("exitcode", 0)
        output, errors = (base64.b64decode(status.get(key, "")) for key in ("out-data", "err-data"))
        return Done(code, output, errors, bool(status.get("out-truncated") or status.get("err-truncated")))

    def _sync(self) -> None:
        number = int.from_bytes(os.urandom(4), "little")
        self._send(_DELIMITER + _line("guest-sync-delimited", {"id": number}))
        deadline = time.monotonic() + SYNC_S
        while True:
            answer = self._receive(deadline, "is it started in the guest?").rpartition(_DELIMITER)[2]
            if _parsed(answer).get("return") == number:
                return

    def _execute(self, what: str, arguments: dict[str, Any], key: str) -> dict[str, Any]:
        """The answer, in which there is this key."""
        self._send(_line(what, arguments))
        answer = _parsed(self._receive(time.monotonic() + ANSWER_S, f"it was asked for {what}"))
        if "error" in answer:
            reason = str(answer["error"].get("desc", answer["error"])).rstrip(".")
            raise VmError(f"the guest agent of {self._vm} refuses {what}: {reason}")
        found = answer.get("return")
        if not isinstance(found, dict) or key not in found:
            raise VmError(f"the guest agent of {self._vm} gives no answer to {what}; was it started anew meanwhile?")
        return found

    def _send(self, data: bytes) -> None:
        try:
            self._connection.sendall(data)
        except OSError as error:
            raise VmError(f"the guest agent of {self._vm} cannot be asked: {error.strerror}") from None

    def _receive(self, deadline: float, hint: str) -> bytes:
        """One line, of which each piece has as long as the first one has."""
        left_s = deadline - time.monotonic()
        while (end := self._pending.find(b"\n")) < 0:
            self._connection.settimeout(max(left_s, 0.001))
            try:
                more = self._connection.recv(_PIECE_BYTES)
            except TimeoutError:
                raise VmError(f"the guest agent of {self._vm} does not answer; {hint}") from None
            except OSError as error:
                raise VmError(f"the guest agent of {self._vm} cannot be reached: {error.strerror}") from None
            if not more or len(self._pending) > MOST_ANSWER_BYTES:
                raise VmError(f"the guest agent of {self._vm} has hung up, or answers without an end")
            self._pending += more
        line = bytes(self._pending[:end])
        del self._pending[: end + 1]
        return line


def _line(what: str, arguments: dict[str, Any]) -> bytes:
    return json.dumps({"execute": what, "arguments": arguments}).encode() + b"\n"


def _parsed(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
