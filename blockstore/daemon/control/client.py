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

from blockstore.daemon.supervise import phase
from blockstore.errors import MountError, StateLost, error_of

SOCKET_NAME: Final = "control"

CLIENT_S: Final = 10.0
"""How long one client may take to ask and to read its answer, so that one that never reads holds a place no longer."""

CONNECT_RETRY_S: Final = 0.05

RESTART_S: Final = 30.0
"""How long a request waits for a daemon that is being started."""

FAILING_S: Final = 2.0
"""How long `status` waits for one that has died several times in a row. The supervisor's first pauses, which two deaths
by chance bring about, are shorter (backoff.py)."""

Answer = dict[str, Any]


class NobodyServes(MountError):
    """There is a mount, and neither a daemon nor a supervisor of it."""


def ask(state: Path, request: dict[str, Any], timeout_s: float = CLIENT_S, *, waits_for_failing: bool = True) -> Answer:
    """Ask the daemon with this state directory. Raises MountError when it does not answer, or refuses; StateLost when
    its socket was deleted with the state; NobodyServes when nobody would start another one.

    A daemon that died and is being started again is waited for; one that has died several times in a row for
    FAILING_S only, unless it `waits_for_failing`.
    """
    began_s = time.monotonic()
    deadline = began_s + RESTART_S
    while True:
        try:
            return _ask_once(state, request, timeout_s)
        except _NotThere as error:
            found = phase.load(state)
            if found is None or time.monotonic() > deadline:
                from blockstore.daemon.state import state_loss  # for a day that should not come

                if loss := state_loss.find_served(state):
                    raise StateLost(loss) from None
                if found is None and error.is_refused:
                    raise NobodyServes(nobody_serves(state)) from None
                raise MountError(str(error)) from None
            if found.name == "waiting" and not waits_for_failing and time.monotonic() - began_s >= FAILING_S:
                raise MountError(
                    f"the daemon with the state {state} has died several times in a row ({found.reason}); its "
                    f"supervisor (process {found.supervisor_pid}) tries again within seconds; look at "
                    f"{state}/daemon.log"
                ) from None
            if found.name == "paused":
                raise MountError(
                    f"the daemon with the state {state} died again and again ({found.reason}); its supervisor (process "
                    f"{found.supervisor_pid}) tries once a minute; look at {state}/daemon.log, and `blockstore reload` "
                    "when it is mended"
                ) from None
            time.sleep(CONNECT_RETRY_S)


def is_refused(state: Path) -> bool:
    """Returns whether there is a control socket, and no process that listens there. Does not wait."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.setblocking(False)
            at(state / SOCKET_NAME, connection.connect)
    except ConnectionRefusedError:
        return True
    except OSError:
        return False
    return False


def nobody_serves(state: Path) -> str:
    """Returns the sentence for a mount whose processes have all ended."""
    from blockstore.daemon.host import mounts  # for a day that should not come

    path = next((str(mount.path) for mount in mounts.served_from(state)), "MOUNTPOINT")
    return (
        f"the mount {path} cannot be reached: its daemon and its supervisor have ended, and only systemd, if it served "
        f"it, would start another daemon; end it with `blockstore umount {path}` (--force if it is in use), and mount "
        f"it again: its files are in {state}"
    )


class _NotThere(Exception):
    """Nobody listens, or whoever did is gone; `is_refused` if there is a socket all the same."""

    def __init__(self, sentence: str, *, is_refused: bool = False) -> None:
        super().__init__(sentence)
        self.is_refused = is_refused


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
            f"the daemon with the state {state} cannot be reached: {error.strerror}; look at {state}/daemon.log",
            is_refused=isinstance(error, ConnectionRefusedError),
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
