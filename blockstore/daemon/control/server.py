"""The control socket: where the daemon is asked, one JSON line there and one back.

A peer that is neither root nor the daemon's own user is turned away (SO_PEERCRED). A request that is no request gets
an answer with `error`; the daemon goes on. Who asks: control.py.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import struct
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import trio

from blockstore.daemon.control.client import CLIENT_S, SOCKET_NAME, Answer, at

log = logging.getLogger(__name__)

MAXIMUM_REQUEST_BYTES: Final = 1 << 20
"""A request of the controller names every VM that it looks after in some 200 bytes."""

MAXIMUM_CLIENTS: Final = 16
MAXIMUM_WAITING: Final = 128
"""Clients that may stand in the socket's queue; further ones try again."""

ACCEPT_RETRY_S: Final = 0.5

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


def _listen(state: Path) -> trio.socket.SocketType:
    listener = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    (state / SOCKET_NAME).unlink(missing_ok=True)
    plain = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.close()
    at(state / SOCKET_NAME, plain.bind)
    (state / SOCKET_NAME).chmod(0o600)
    plain.listen(MAXIMUM_WAITING)
    return trio.socket.from_stdlib_socket(plain)


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
