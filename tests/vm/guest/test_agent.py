"""The guest agent's protocol, against a process that speaks it at a socket. (A real agent: scripts/hosts.)"""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from blockstore.errors import VmError
from blockstore.vm.guest.agent import Agent, port_of

Answer = Callable[[dict[str, Any]], bytes]


@contextmanager
def serving(path: Path, answer: Answer) -> Iterator[list[str]]:
    """Answers each line; gives what was asked."""
    asked: list[str] = []
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(path))
    listener.listen()

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as lines:
            for line in lines:
                request = json.loads(line.lstrip(b"\xff"))
                asked.append(request["execute"])
                connection.sendall(answer(request))

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield asked
    finally:
        listener.close()
        thread.join(10)


class Guest:
    """An agent whose command ends at the third look."""

    def __init__(self, **ended: Any) -> None:
        self.looks = 0
        self.ended = ended
        self.command: list[str] = []

    def __call__(self, request: dict[str, Any]) -> bytes:
        arguments = request["arguments"]
        if request["execute"] == "guest-sync-delimited":
            return b'{"return": "what another client has not read"}\n\xff' + answer(arguments["id"])
        if request["execute"] == "guest-exec":
            self.command = [arguments["path"], *arguments["arg"]]
            return answer({"pid": 7})
        self.looks += 1
        return answer({"exited": False} if self.looks < 3 else {"exited": True, **self.ended})


def answer(content: Any) -> bytes:
    return json.dumps({"return": content}).encode() + b"\n"


def run(path: Path, guest: Answer, *command: str) -> Any:
    with serving(path, guest):
        agent = Agent(path, "vm1")
        try:
            return agent.run(command, wait=lambda seconds: None)
        finally:
            agent.close()


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_a_command(tmp_path: Path) -> None:
    guest = Guest(exitcode=3, **{"out-data": encoded(b"a\x00b"), "err-data": encoded(b"oh\n")})
    done = run(tmp_path / "agent", guest, "sh", "-c", "exit 3")
    assert (done.code, done.output, done.errors, done.is_cut) == (3, b"a\x00b", b"oh\n", False)
    assert guest.command == ["sh", "-c", "exit 3"] and guest.looks == 3


def test_a_command_that_a_signal_ends(tmp_path: Path) -> None:
    done = run(tmp_path / "agent", Guest(signal=9, **{"out-truncated": True}), "sleep", "9")
    assert (done.code, done.output, done.is_cut) == (137, b"", True)


def test_what_an_agent_refuses(tmp_path: Path) -> None:
    def refuse(request: dict[str, Any]) -> bytes:
        if request["execute"] == "guest-exec":
            return b'{"error": {"class": "GenericError", "desc": "Failed to execute child process."}}\n'
        return Guest()(request)

    with pytest.raises(VmError, match=r"the guest agent of vm1 refuses guest-exec: Failed to execute child process$"):
        run(tmp_path / "agent", refuse, "no-such")


@pytest.mark.parametrize("said", [b'{"return": {}}\n', b"[]\n", b"what?\n"])
def test_an_agent_that_is_started_anew_meanwhile(tmp_path: Path, said: bytes) -> None:
    def answer_oddly(request: dict[str, Any]) -> bytes:
        return said if request["execute"] == "guest-exec" else Guest()(request)

    with pytest.raises(VmError, match="the guest agent of vm1 gives no answer to guest-exec"):
        run(tmp_path / "agent", answer_oddly, "true")


def test_an_agent_that_hangs_up(tmp_path: Path) -> None:
    with pytest.raises(VmError, match=r"cannot be reached at .*agent"):
        Agent(tmp_path / "agent", "vm1")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(str(tmp_path / "agent"))
    listener.listen()
    thread = threading.Thread(target=lambda: listener.accept()[0].close(), daemon=True)
    thread.start()
    with pytest.raises(VmError, match=r"has hung up|cannot be reached|cannot be asked"):
        Agent(tmp_path / "agent", "vm1")
    thread.join(10)
    listener.close()


@pytest.mark.parametrize(
    "device",
    [
        "virtserialport,chardev=agent,name=org.qemu.guest_agent.0",
        '{"driver":"virtserialport","bus":"virtio-serial0.0","chardev":"agent","name":"org.qemu.guest_agent.0"}',
    ],
)
def test_where_the_agent_is(device: str) -> None:
    assert port_of(["-nographic", "-device", "virtio-serial", "-device", device]) == "agent"
    assert not port_of(["-device", "virtserialport,chardev=agent,name=org.other.0", "-device", "virtio-balloon"])
