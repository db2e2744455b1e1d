"""A tier in the memory of a Valkey or Redis server, single or cluster.

A piece is one string, `blockstore:STOREIDHEX:piece:N`, so that stores can share a server and a cluster spreads pieces.
An acknowledged `put` stands in the memory of the server; whether it outlives that server is set up there
(persistence, replicas). The client is imported in the modules `valkey*` of this folder only: it takes memory.

A server that stood still may do later what a caller has long given up, after what was asked of it since. So a change is
a transaction, begun only when the server has answered that it watches the key: it does nothing once the piece has
changed. What may come late all the same is a piece that nobody knows, which `pieces` then shows.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from queue import Empty, SimpleQueue
from typing import Any, Final

from valkey.exceptions import (
    AuthenticationError,
    NoPermissionError,
    OutOfMemoryError,
    ResponseError,
    ValkeyClusterException,
)

from blockstore.errors import InputError
from blockstore.store.codec import Buffer
from blockstore.store.tiers import PieceMissing, TierAway
from blockstore.store.tiers.valkey_address import parse
from blockstore.store.tiers.valkey_connection import SOCKET_WAIT_S, Health, Step, command, get_range, transaction
from blockstore.store.tiers.valkey_servers import CLIENT_ERRORS, NONSENSE, Servers, connect

CONNECTIONS_MAX: Final = 16
"""Calls at a time, and so connections to a server: a fault each for the guests that wait, and paging out."""

_SCAN_KEYS: Final = 1000
"""Looked at by the server at a time; others wait for about a millisecond."""

_NOT_CONNECTED: Final = re.compile(r"Error -?\d+ connecting to (\S+)\. ([^.]+)\.?")
"""How the client says it, with the number of the error (errno, or of getaddrinfo(3)), which tells nobody anything."""

_MARK: Final = b"blockstore tier 1"


class ValkeyTier:
    """The pieces of one store. See `Tier` for the methods, `valkey_address.parse` for the URL and its errors.

    WAIT_S holds for all but two: names of hosts are looked up by the system's resolver, which has its own limits, and
    `pieces` and `check` take up to CALL_S for each answer of a server that goes on answering."""

    def __init__(self, url: str, store_id: bytes) -> None:
        self._address: Final = parse(url)
        self._prefix: Final = f"blockstore:{store_id.hex()}:"
        self._health: Final = Health()
        self._turns: Final[SimpleQueue[None]] = SimpleQueue()  # a semaphore in C
        for _ in range(CONNECTIONS_MAX):
            self._turns.put(None)
        self._connecting: Final = threading.Lock()
        self._servers: Servers | None = None

    def check(self) -> None:
        try:
            with self._call() as servers:
                self._check_policy(servers)
                self._check_mark(servers)
                self._check_permissions(servers)
        except TierAway as error:
            why = error.__cause__
            if isinstance(why, AuthenticationError | NoPermissionError):
                raise InputError(f"{self.describe()} refuses the credentials: {why}; correct them") from None
            raise

    def put(self, piece: int, data: Buffer) -> None:
        key = self._key(piece)
        self._change(key, "SET", key, data)

    def read(self, piece: int, offset: int, length: int) -> bytes:
        assert offset >= 0 and length > 0, (offset, length)
        key = self._key(piece)
        data: bytes = self._ask(key, get_range(key, offset, offset + length - 1))
        if len(data) != length:
            raise PieceMissing(
                f"{self.describe()} has {len(data)} of {length} bytes of piece {piece} at {offset}; "
                f"its server was emptied, or restarted without persistence"
            )
        return data

    def delete(self, piece: int) -> None:
        key = self._key(piece)
        self._change(key, "UNLINK", key)

    def pieces(self) -> list[int]:
        """Of all masters. Raises TierAway when one is missing, was restarted, or handed slots over meanwhile: no list
        is better than a short one."""
        prefix = f"{self._prefix}piece:".encode()
        found: set[int] = set()
        with self._call() as servers:
            before = servers.layout()
            for _, master in servers.masters():
                for key in master.scan_iter(match=prefix + b"*", count=_SCAN_KEYS):
                    self._health.begin_call()
                    number = key[len(prefix) :]
                    if number.isdigit():
                        found.add(int(number))
            if servers.layout() != before:
                raise TierAway(f"the servers of {self.describe()} changed while their keys were listed")
        return sorted(found)

    def remove(self) -> None:
        for piece in self.pieces():
            self.delete(piece)
        mark = f"{self._prefix}mark"
        self._change(mark, "UNLINK", mark)

    def describe(self) -> str:
        return str(self._address)

    def close(self) -> None:
        with self._connecting:
            servers, self._servers = self._servers, None
        if servers is not None:
            servers.close()

    def _key(self, piece: int) -> str:
        return f"{self._prefix}piece:{piece}"

    def _change(self, key: str, *words: str | Buffer) -> None:
        self._changed(key, self._ask(key, command("WATCH", key), transaction(*words)))

    def _changed(self, key: str, done: list[Any] | None) -> None:
        if not done:
            raise TierAway(f"{key} in {self.describe()} was changed by somebody else meanwhile")
        if isinstance(done[0], Exception):
            raise self._away(done[0], None) from done[0]

    @contextmanager
    def _call(self) -> Iterator[Servers]:
        """Some work at the servers: as one call, and with TierAway for all that can go wrong."""
        self._take_turn()
        servers = self._servers
        try:
            yield self._begin(servers)
        except (*CLIENT_ERRORS, *NONSENSE) as error:
            raise self._away(error, servers) from error
        finally:
            self._turns.put(None)

    def _ask(self, key: str, *steps: Step) -> Any:
        """As `_call` does it, for the hot path of a fault: a context manager costs four microseconds."""
        self._take_turn()
        servers = self._servers
        try:
            return self._begin(servers).ask(key, *steps)
        except CLIENT_ERRORS as error:
            raise self._away(error, servers) from error
        finally:
            self._turns.put(None)

    def _begin(self, servers: Servers | None) -> Servers:
        self._health.begin_call()
        return self._connect() if servers is None else servers

    def _take_turn(self) -> None:
        try:
            self._turns.get(timeout=SOCKET_WAIT_S)
        except Empty:
            raise TierAway(f"{self.describe()} is slow: {CONNECTIONS_MAX} calls wait for it") from None

    def _away(self, error: Exception, servers: Servers | None) -> TierAway:
        if isinstance(error, ValkeyClusterException):  # no node of the map answers: begin again from the URL
            self._forget(servers)
        state = "full" if isinstance(error, OutOfMemoryError) else "away"
        return TierAway(f"{self.describe()} is {state}: {_NOT_CONNECTED.sub(_no_connection, str(error))}")

    def _connect(self) -> Servers:
        if not self._connecting.acquire(timeout=SOCKET_WAIT_S):
            raise TierAway(f"{self.describe()} is away: connecting takes long")
        try:
            if self._servers is None:
                self._servers = connect(self._address, self._health)
            return self._servers
        finally:
            self._connecting.release()

    def _forget(self, servers: Servers | None) -> None:
        """Other calls may still use them, so they are closed when the last one has gone."""
        with self._connecting:
            if self._servers is servers:
                self._servers = None

    def _check_policy(self, servers: Servers) -> None:
        for name, master in servers.masters():
            self._health.begin_call()
            try:
                policy = master.config_get("maxmemory-policy").get("maxmemory-policy")
            except ResponseError:  # not permitted, or renamed, as with managed services
                policy = master.info("memory").get("maxmemory_policy")
            if policy != "noeviction":
                raise InputError(
                    f"{name} of {self.describe()} throws keys away when it is full (maxmemory-policy {policy}), "
                    f"and guests would lose memory; set it to noeviction"
                )
            master.scan(count=1)

    def _check_mark(self, servers: Servers) -> None:
        key = f"{self._prefix}mark"
        mark = servers.ask(key, command("GETRANGE", key, 0, 99))
        if not mark:  # not always, for a full server can be used as it is
            servers.ask(key, command("SET", key, _MARK, "NX"))
            mark = servers.ask(key, command("GETRANGE", key, 0, 99))
        if mark != _MARK:
            raise InputError(
                f"{self.describe()} holds pieces of this store in another format ({mark!r}); "
                f"mount with the blockstore that wrote them"
            )

    def _check_permissions(self, servers: Servers) -> None:
        """For what only a later call would need."""
        key = f"{self._prefix}probe"
        servers.ask(key, command("WATCH", key), transaction("UNLINK", key))


def _no_connection(found: re.Match[str]) -> str:
    return f"no connection to {found[1]} ({found[2]})"
