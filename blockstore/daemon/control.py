"""The control socket: how the command line asks a daemon, one JSON line there and one back.

The socket is `control` in the state directory (mode 0700), and a peer that is neither root nor the daemon's own
user is turned away (SO_PEERCRED). A request that is no request gets an answer with `error`; the daemon goes on.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import struct
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import trio

from blockstore.daemon import phase
from blockstore.errors import MountError, error_of

log = logging.getLogger(__name__)

SOCKET_NAME: Final = "control"

MAXIMUM_REQUEST_BYTES: Final = 64 << 10
MAXIMUM_ANSWER_BYTES: Final = 64 << 20
"""An answer names every volume in some 600 bytes: room for 100,000."""

MAXIMUM_CLIENTS: Final = 16
MAXIMUM_WAITING: Final = 128
"""Clients that may stand in the socket's queue; further ones try again."""

CONNECT_RETRY_S: Final = 0.05
ACCEPT_RETRY_S: Final = 0.5
CLIENT_S: Final = 10.0
"""How long one client may take to ask and to read its answer, so that one that never reads holds a place no longer."""

RESTART_S: Final = 30.0
"""How long a request waits for a daemon that is being started."""

Answer = dict[str, Any]
Handler = Callable[[dict[str, Any]], Coroutine[Any, Any, Answer]]


async def serve(state: Path, handlers: dict[str, Handler]) -> None:
    """Answer until cancelled. `handlers` is by the request's `do`."""
    listener = _listen(state)
    places = trio.CapacityLimiter(MAXIMUM_CLIENTS)
    try:
        async with trio.open_nursery() as nursery:
            while True:
                await places.acquire_on_behalf_of(ticket := object())
                client = await _accept(listener)
                nursery.start_soon(_serve_client, client, handlers, places, ticket)
    finally:
        listener.close()
        (state / SOCKET_NAME).unlink(missing_ok=True)


async def _accept(listener: trio.socket.SocketType) -> trio.socket.SocketType:
    while True:
        try:
            client, _ = await listener.accept()
            return client
        except OSError as error:  # no descriptor to be had, or a client that went away: no reason to stop
            log.error("a client of the control socket could not be let in: %s", error.strerror)
            await trio.sleep(ACCEPT_RETRY_S)


def ask(state: Path, request: dict[str, Any], timeout_s: float = CLIENT_S) -> Answer:
    """Ask the daemon with this state directory. Raises MountError when it does not answer, or refuses.

    A daemon that died and is being started again is waited for.
    """
    deadline = time.monotonic() + RESTART_S
    while True:
        try:
            return _ask_once(state, request, timeout_s)
        except _NotThere as error:
            found = phase.load(state)
            if found is None or time.monotonic() > deadline:
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
            _at(state, connection.connect)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise TimeoutError from None
            time.sleep(CONNECT_RETRY_S)


def _listen(state: Path) -> trio.socket.SocketType:
    listener = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    (state / SOCKET_NAME).unlink(missing_ok=True)
    plain = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.close()
    _at(state, plain.bind)
    (state / SOCKET_NAME).chmod(0o600)
    plain.listen(MAXIMUM_WAITING)
    return trio.socket.from_stdlib_socket(plain)


def _at(state: Path, use: Callable[[str], None]) -> None:
    """Use the socket by a short name: a socket address holds 107 bytes, the path of a state may be longer."""
    directory = os.open(state, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        use(f"/proc/self/fd/{directory}/{SOCKET_NAME}")
    finally:
        os.close(directory)


async def _serve_client(
    client: trio.socket.SocketType, handlers: dict[str, Handler], places: trio.CapacityLimiter, ticket: object
) -> None:
    try:
        with client, trio.move_on_after(CLIENT_S):
            try:
                answer = await _answer(client, handlers)
            except OSError:
                return
            except Exception:
                log.exception("a control request failed")
                answer = {"error": "the daemon failed on this request; its log says why"}
            await trio.SocketStream(client).send_all(json.dumps(answer).encode() + b"\n")
    except (OSError, trio.BrokenResourceError):
        return  # the client went away
    finally:
        places.release_on_behalf_of(ticket)


async def _answer(client: trio.socket.SocketType, handlers: dict[str, Handler]) -> Answer:
    credentials = client.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    _, uid, _ = struct.unpack("3i", credentials)
    if uid not in (0, os.geteuid()):
        return {"error": "only root and the user who mounted may ask this daemon"}
    text = bytearray()
    while b"\n" not in text and len(text) <= MAXIMUM_REQUEST_BYTES:
        part = await client.recv(1 << 12)
        if not part:
            break
        text += part
    try:
        request = json.loads(text)
        handler = handlers[request["do"]]
    except (ValueError, TypeError, KeyError, RecursionError):
        return {"error": f"this is no request; it wants one line of JSON with do: {', '.join(sorted(handlers))}"}
    return await handler(request)
