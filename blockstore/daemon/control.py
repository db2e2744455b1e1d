"""The control socket, seen from those who ask: one JSON line there and one back.

The socket is `control` in the state directory (mode 0700). Imports next to nothing, because processes that live long
ask too. Who answers: control_server.py.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from blockstore.daemon import phase
from blockstore.errors import MountError, StateLost, error_of

SOCKET_NAME: Final = "control"

CLIENT_S: Final = 10.0
"""How long one client may take to ask and to read its answer, so that one that never reads holds a place no longer."""

CONNECT_RETRY_S: Final = 0.05

RESTART_S: Final = 30.0
"""How long a request waits for a daemon that is being started."""

Answer = dict[str, Any]


def ask(state: Path, request: dict[str, Any], timeout_s: float = CLIENT_S) -> Answer:
    """Ask the daemon with this state directory. Raises MountError when it does not answer, or refuses; StateLost when
    its socket was deleted with the state.

    A daemon that died and is being started again is waited for.
    """
    deadline = time.monotonic() + RESTART_S
    while True:
        try:
            return _ask_once(state, request, timeout_s)
        except _NotThere as error:
            found = phase.load(state)
            if found is None or time.monotonic() > deadline:
                from blockstore.daemon import state_loss  # for a day that should not come

                if loss := state_loss.find_served(state):
                    raise StateLost(loss) from None
                raise MountError(str(error)) from None
            if found.name == "paused":
                raise MountError(
                    f"the daemon with the state {state} died again and again ({found.reason}); its supervisor (process "
                    f"{found.supervisor_pid}) tries once a minute; look at {state}/daemon.log, and `blockstore reload` "
                    "when it is mended"
                ) from None
            time.sleep(CONNECT_RETRY_S)


class _NotThere(Exception):
    """Nobody listens, or whoever did is gone."""


def _ask_once(state: Path, request: dict[str, Any], timeout_s: float) -> Answer:
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(timeout_s)
            _connect(state, connection, timeout_s)
            connection.sendall(json.dumps(request).encode() + b"\n")
            connection.shutdown(socket.SHUT_WR)
            text = bytearray()
            while part := connection.recv(1 << 16):
                text += part
    except TimeoutError:
        raise MountError(f"the daemon with the state {state} does not answer; look at {state}/daemon.log") from None
    except PermissionError:
        raise MountError(
            f"the daemon with the state {state} answers only root and the user who mounted; run this as one of them"
        ) from None
    except OSError as error:
        raise _NotThere(
            f"the daemon with the state {state} cannot be reached: {error.strerror}; look at {state}/daemon.log"
        ) from None
    try:
        answer: Answer = json.loads(text)
    except ValueError:
        raise _NotThere(f"the daemon with the state {state} gave no answer; look at {state}/daemon.log") from None
    if "error" in answer:
        raise error_of(int(answer.get("code", MountError.exit_code)))(str(answer["error"]))
    return answer


def _connect(state: Path, connection: socket.socket, timeout_s: float) -> None:
    """Connect; a queue of clients that is full at the moment (EAGAIN) is waited for."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            at(state / SOCKET_NAME, connection.connect)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError from None
            time.sleep(CONNECT_RETRY_S)


def at(path: Path, use: Callable[[str], None]) -> None:
    """Use a socket by a short name: a socket address holds 107 bytes, the path of a state may be longer."""
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        use(f"/proc/self/fd/{directory}/{path.name}")
    finally:
        os.close(directory)
