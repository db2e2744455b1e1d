"""Whoever stops a VM may be killed before it lets it go on. So a guard is started first, a process of its own that
sees its parent end, and then lets the VM go on over the same QMP connection: no new one may be had while a client that
hangs is connected. It needs no memory of its own, being a copy of its parent, and speaks QMP itself.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from blockstore.vm import apart
from blockstore.vm.qemu.monitor import LET_GO_ON, STOPPED_BY_ITSELF, Command
from blockstore.vm.snapshot.disks import used_by

RESCUE_S: Final = 60.0
"""How long the guard tries: a QEMU that does not answer in this time has a trouble of its own."""

RETRY_S: Final = 0.1
"""Between two tries of what QEMU refuses for now."""

_LARGEST_ANSWER_BYTES: Final = 1 << 20

_ID: Final = "blockstore-guard"
_DONE: Final = b"+"


class Guard:
    """From its making until `stand_down` the VM goes on, whatever becomes of us and of who else has `writer` open."""

    def __init__(
        self,
        connection: int,
        leftover: Path,
        afterwards: list[Command],
        leavings: list[Command],
        overlays: Sequence[Path] = (),
    ) -> None:
        """`connection` is the QMP socket; the commands `afterwards` are given, and the file `leftover` is removed, when
        we do not live to do it; and what the VM has of ours by then, by the commands `leavings`, and those `overlays`
        of disks that it has not come to use."""
        reader, self.writer = os.pipe()
        self._pid = apart.fork(
            [reader, connection], lambda: _watch(reader, connection, leftover, afterwards, leavings, list(overlays))
        )
        os.close(reader)

    def stand_down(self) -> None:
        """The VM goes on, or was not running before."""
        with contextlib.suppress(BrokenPipeError):
            os.write(self.writer, _DONE)
        os.close(self.writer)
        os.waitpid(self._pid, 0)

    def take_over(self) -> None:
        """We could not let the VM go on; the guard tries for RESCUE_S, and we need not wait."""
        os.close(self.writer)


def _watch(
    reader: int,
    connection: int,
    leftover: Path,
    afterwards: list[Command],
    leavings: list[Command],
    overlays: list[Path],
) -> int:
    if os.read(reader, 1) == _DONE:
        return 0
    with contextlib.suppress(OSError, ValueError):
        pending = bytearray()
        _let_go_on(connection, pending, afterwards)
        _clear(connection, pending, leavings)
        if overlays:
            _remove_unused(connection, pending, overlays)
    with contextlib.suppress(OSError):
        leftover.unlink()
    return 0


def _remove_unused(connection: int, pending: bytearray, overlays: list[Path]) -> None:
    """Only if QEMU says what it uses."""
    answer = _ask(connection, pending, ("query-named-block-nodes", {"flat": True}), time.monotonic() + RESCUE_S)
    if "return" in answer:
        used = used_by(answer["return"])
        for path in overlays:
            if str(path) not in used:
                path.unlink(missing_ok=True)


def _let_go_on(connection: int, pending: bytearray, afterwards: list[Command]) -> None:
    deadline = time.monotonic() + RESCUE_S
    status = _ask(connection, pending, ("query-status", {}), deadline).get("return", {}).get("status")
    for command in afterwards:
        if command == LET_GO_ON and status in STOPPED_BY_ITSELF:
            continue
        while "return" not in _ask(connection, pending, command, deadline) and time.monotonic() < deadline:
            time.sleep(RETRY_S)


def _clear(connection: int, pending: bytearray, leavings: list[Command]) -> None:
    """A job may be about to end yet; what else is refused has not come to be there."""
    deadline = time.monotonic() + RESCUE_S
    for command, arguments in leavings:
        while "return" not in _ask(connection, pending, (command, arguments), deadline):
            jobs = _ask(connection, pending, ("query-jobs", {}), deadline).get("return", [])
            if arguments not in [{"id": each["id"]} for each in jobs] or time.monotonic() > deadline:
                break
            time.sleep(RETRY_S)


def _ask(connection: int, pending: bytearray, command: Command, deadline: float) -> dict[str, Any]:
    """One command and its answer; what else comes, such as the answers to our parent, is passed over."""
    request = {"execute": command[0], "arguments": command[1], "id": _ID}
    os.write(connection, json.dumps(request).encode() + b"\n")
    poll = select.poll()
    poll.register(connection, select.POLLIN)
    while True:
        line, found, rest = bytes(pending).partition(b"\n")
        if found:
            pending[:] = rest
            with contextlib.suppress(ValueError):  # the rest of a line that our parent has read the beginning of
                answer = json.loads(line)
                if answer.get("id") == _ID:
                    return dict(answer)
            continue
        if not poll.poll(max(deadline - time.monotonic(), 0) * 1000):
            raise TimeoutError
        part = os.read(connection, 1 << 16)
        if not part or len(pending) > _LARGEST_ANSWER_BYTES:
            raise ConnectionResetError
        pending += part
