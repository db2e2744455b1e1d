"""A tier in the memory of a Valkey or Redis server, single or cluster.

A piece is one string, `blockstore:STOREIDHEX:piece:N`, so that stores can share a server and a cluster spreads pieces.
An acknowledged `put` stands in the memory of the server; whether it outlives that server is set up there
(persistence, replicas). The client is imported in the modules `valkey*` of this folder only: it takes memory.

A server that stood still may do later what a caller has long given up, after what was asked of it since. So each piece
begins with a stamp, which grows from call to call: an older `put` or `delete` than the one that made it does nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from valkey.exceptions import AuthenticationError, NoPermissionError, ResponseError, ValkeyClusterException

from blockstore.errors import InputError
from blockstore.store.codec import Buffer
from blockstore.store.tiers import PieceMissing, TierAway
from blockstore.store.tiers.valkey_address import parse
from blockstore.store.tiers.valkey_connection import SOCKET_WAIT_S, Health
from blockstore.store.tiers.valkey_servers import CLIENT_ERRORS, Servers, connect

CONNECTIONS_MAX: Final = 16
"""Calls at a time, and so connections to a server: a fault each for the guests that wait, and paging out."""

_SCAN_KEYS: Final = 1000
"""Looked at by the server at a time; others wait for about a millisecond."""

_MARK: Final = b"blockstore tier 1"

_STAMP_BYTES: Final = 20
"""Nanoseconds since 1970, in decimal digits, so that they compare as text."""

_TRIES: Final = 2
"""Of a put or delete: the second with a stamp above the one that is there, when the clock was set back meanwhile."""

# Both return the stamp that is there if it is newer. One that is equal is this call itself, sent twice.
_PUT: Final = f"""local there = redis.call('GETRANGE', KEYS[1], 0, {_STAMP_BYTES - 1})
local stamp = string.sub(ARGV[1], 1, {_STAMP_BYTES})
if there > stamp then return there end
if there ~= stamp then redis.call('SET', KEYS[1], ARGV[1]) end
return ''"""
_DELETE: Final = f"""local there = redis.call('GETRANGE', KEYS[1], 0, {_STAMP_BYTES - 1})
if there > ARGV[1] then return there end
redis.call('UNLINK', KEYS[1])
return ''"""


class ValkeyTier:
    """The pieces of one store. See `Tier` for the methods, `valkey_address.parse` for the URL and its errors.

    WAIT_S holds for all but two: names of hosts are looked up by the system's resolver, which has its own limits, and
    `pieces` and `check` take up to CALL_S for each answer of a server that goes on answering."""

    def __init__(self, url: str, store_id: bytes) -> None:
        self._address: Final = parse(url)
        self._prefix: Final = f"blockstore:{store_id.hex()}:"
        self._health: Final = Health()
        self._turn: Final = threading.BoundedSemaphore(CONNECTIONS_MAX)
        self._connecting: Final = threading.Lock()
        self._servers: Servers | None = None
        self._stamping: Final = threading.Lock()
        self._stamp = 0

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
        self._change(piece, _PUT, data)

    def read(self, piece: int, offset: int, length: int) -> bytes:
        assert offset >= 0 and length > 0, (offset, length)
        begin = _STAMP_BYTES + offset
        key = self._key(piece)
        with self._call() as servers:
            data: bytes = servers.ask(key, "GETRANGE", key, begin, begin + length - 1)
            if len(data) == length:
                return data
        raise PieceMissing(
            f"{self.describe()} has {len(data)} of {length} bytes of piece {piece} at {offset}; "
            f"its server was emptied, or restarted without persistence"
        )

    def delete(self, piece: int) -> None:
        self._change(piece, _DELETE, b"")

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

    def describe(self) -> str:
        return str(self._address)

    def close(self) -> None:
        with self._connecting:
            servers, self._servers = self._servers, None
        if servers is not None:
            servers.close()

    def _key(self, piece: int) -> str:
        return f"{self._prefix}piece:{piece}"

    def _change(self, piece: int, script: str, data: Buffer) -> None:
        key = self._key(piece)
        there = 0
        for _ in range(_TRIES):
            stamp = self._next_stamp(there)
            with self._call() as servers:
                newer: bytes = servers.ask(key, "EVAL", script, 1, key, b"".join((stamp, data)))
            if not newer:
                return
            there = int(newer) if newer.isdigit() else 0
        raise TierAway(f"{self.describe()} has a piece {piece} of somebody else, who uses the same store")

    def _next_stamp(self, above: int) -> bytes:
        with self._stamping:
            self._stamp = max(self._stamp + 1, time.time_ns(), above + 1)
            return f"{self._stamp:0{_STAMP_BYTES}d}".encode()

    @contextmanager
    def _call(self) -> Iterator[Servers]:
        """One call at the servers: with a connection to spare, and with TierAway for all that can go wrong."""
        if not self._turn.acquire(timeout=SOCKET_WAIT_S):
            raise TierAway(f"{self.describe()} is slow: {CONNECTIONS_MAX} calls wait for it")
        servers = self._servers
        try:
            self._health.begin_call()
            if servers is None:
                servers = self._connect()
            yield servers
        except CLIENT_ERRORS as error:
            if isinstance(error, ValkeyClusterException):  # no node of the map answers: begin again from the URL
                self._forget(servers)
            raise TierAway(f"{self.describe()} is away: {error}") from error
        finally:
            self._turn.release()

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
        mark = servers.ask(key, "GETRANGE", key, 0, 99)
        if not mark:  # not always, for a full server can be used as it is
            servers.ask(key, "SET", key, _MARK, "NX")
            mark = servers.ask(key, "GETRANGE", key, 0, 99)
        if mark != _MARK:
            raise InputError(
                f"{self.describe()} holds pieces of this store in another format ({mark!r}); "
                f"mount with the blockstore that wrote them"
            )

    def _check_permissions(self, servers: Servers) -> None:
        """For what only a later call would need. UNLINK by itself too: of a script the server does not say which
        command was not permitted."""
        key = f"{self._prefix}probe"
        servers.ask(key, "UNLINK", key)
        servers.ask(key, "EVAL", _DELETE, 1, key, self._next_stamp(0))
