"""A QEMU that closes a connection which it has just taken, played: it does so now and then, and not at will."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from blockstore.vm.qemu.monitor import GREETINGS, Gone, Monitor

GREETING = {"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}, "package": ""}, "capabilities": []}}


def answer(client: socket.socket, message: dict[str, Any]) -> None:
    with suppress(BrokenPipeError):
        client.sendall(json.dumps(message).encode() + b"\n")


@contextmanager
def qemu(path: Path, closes: int) -> Iterator[Callable[[], int]]:
    """Listens at the path, and closes the first connections after its greeting. Yields how many it has taken."""
    taken = 0

    def serve() -> None:
        nonlocal taken
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            taken += 1
            with client:
                answer(client, GREETING)
                while taken > closes and (request := client.recv(1 << 16)):
                    answer(
                        client,
                        {"return": {}} | {key: value for key, value in json.loads(request).items() if key == "id"},
                    )

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield lambda: taken
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_connection_that_is_closed_at_the_greeting_is_made_again(tmp_path: Path) -> None:
    with qemu(tmp_path / "qmp", closes=1) as taken:
        with Monitor(tmp_path / "qmp", "vm1") as monitor:
            assert monitor.execute("query-status") == {}
        assert taken() == 2


def test_one_that_is_always_closed_is_given_up(tmp_path: Path) -> None:
    with qemu(tmp_path / "qmp", closes=GREETINGS) as taken:
        with pytest.raises(Gone, match=r"the QEMU of vm1 closed .*/qmp at greet"):
            Monitor(tmp_path / "qmp", "vm1")
        assert taken() == GREETINGS
