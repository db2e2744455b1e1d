"""A tier in the memory of a Valkey or Redis server, single or cluster.

A piece is one string, `blockstore:STOREIDHEX:piece:N`, so that stores can share a server and a cluster spreads pieces.
An acknowledged `put` stands in the memory of the server; whether it outlives that server is set up there
(persistence, replicas). Nothing else may import the client: it takes memory in each daemon.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import valkey
from valkey.backoff import NoBackoff
from valkey.cluster import ClusterNode, ValkeyCluster
from valkey.exceptions import AuthenticationError, NoPermissionError, ResponseError, ValkeyClusterException, ValkeyError
from valkey.retry import Retry

from blockstore.errors import InputError
from blockstore.store.codec import Buffer
from blockstore.store.tiers import WAIT_S, PieceMissing, TierAway
from blockstore.store.tiers.valkey_address import Address, join, parse

CONNECTIONS_MAX: Final = 16
"""Calls at a time, and so connections to a node: a fault each for the guests that wait, and paging out."""

SOCKET_WAIT_S: Final = WAIT_S / 8
"""For one answer. A call waits for its turn, for an answer, for the map of the cluster, and for an answer again."""

_CLUSTER_TRIES: Final = 1
"""More after the first, each with a new map of the cluster."""

_SLOTS: Final = 16384
_AWAY: Final = (ValkeyError, ValkeyClusterException, OSError)
"""All that the client raises; the second is none of the first."""

_SCAN_KEYS: Final = 1000
"""Looked at by the server at a time; others wait for about a millisecond."""

_MARK: Final = b"blockstore tier 1"


class ValkeyTier:
    """The pieces of one store. See `Tier` for the methods, `valkey_address.parse` for the URL and its errors."""

    def __init__(self, url: str, store_id: bytes) -> None:
        self._address: Final = parse(url)
        self._prefix: Final = f"blockstore:{store_id.hex()}:"
        self._turn: Final = threading.BoundedSemaphore(CONNECTIONS_MAX)
        self._connecting: Final = threading.Lock()
        self._client: Any = None  # a Valkey or a ValkeyCluster, whose types share no base with what both can

    def check(self) -> None:
        try:
            with self._call() as client:
                self._check_servers(client)
                self._check_mark(client)
        except TierAway as error:
            if isinstance(error.__cause__, AuthenticationError | NoPermissionError):
                why = error.__cause__
                raise InputError(f"{self.describe()} refuses the credentials: {why}; correct them") from None
            raise

    def put(self, piece: int, data: Buffer) -> None:
        with self._call() as client:
            client.execute_command("SET", self._key(piece), bytes(data))

    def read(self, piece: int, offset: int, length: int) -> bytes:
        with self._call() as client:
            data: bytes = client.execute_command("GETRANGE", self._key(piece), offset, offset + length - 1)
        if len(data) != length:
            raise PieceMissing(
                f"{self.describe()} has {len(data)} of {length} bytes of piece {piece} at {offset}; "
                f"its server was emptied or restarted without persistence"
            )
        return data

    def delete(self, piece: int) -> None:
        with self._call() as client:
            client.execute_command("UNLINK", self._key(piece))

    def pieces(self) -> list[int]:
        """Of all masters. Raises TierAway when one is missing: no list is better than a short one."""
        prefix = f"{self._prefix}piece:".encode()
        found: set[int] = set()
        with self._call() as client:
            for _, master in _masters(client):
                for key in master.scan_iter(match=prefix + b"*", count=_SCAN_KEYS):
                    number = key[len(prefix) :]
                    if number.isdigit():
                        found.add(int(number))
        return sorted(found)

    def describe(self) -> str:
        return str(self._address)

    def close(self) -> None:
        with self._connecting:
            client, self._client = self._client, None
            if client is not None:
                client.close()

    def _key(self, piece: int) -> str:
        return f"{self._prefix}piece:{piece}"

    @contextmanager
    def _call(self) -> Iterator[Any]:
        """One call at the servers: with a connection to spare, and with TierAway for all that can go wrong."""
        if not self._turn.acquire(timeout=SOCKET_WAIT_S):
            raise TierAway(f"{self.describe()} is slow: {CONNECTIONS_MAX} calls wait for it")
        try:
            yield self._client or self._connect()
        except _AWAY as error:
            # The client forgets each node that fails, and so the whole cluster when all fail: begin again from the URL.
            client = self._client
            if isinstance(error, ValkeyClusterException) or (
                isinstance(client, ValkeyCluster) and not client.nodes_manager.startup_nodes
            ):
                self._client = None
            raise TierAway(f"{self.describe()} is away: {error}") from error
        finally:
            self._turn.release()

    def _connect(self) -> Any:
        if not self._connecting.acquire(timeout=SOCKET_WAIT_S):
            raise TierAway(f"{self.describe()} is away: connecting takes long")
        try:
            if self._client is None:
                self._client = _connect(self._address)
            return self._client
        finally:
            self._connecting.release()

    def _check_servers(self, client: Any) -> None:
        for name, master in _masters(client):
            try:
                policy = master.config_get("maxmemory-policy").get("maxmemory-policy")
            except ResponseError:  # not permitted, or renamed, as with managed services
                policy = master.info("memory").get("maxmemory_policy")
            if policy != "noeviction":
                raise InputError(
                    f"{name} of {self.describe()} throws keys away when it is full (maxmemory-policy {policy}), "
                    f"and guests would lose memory; set it to noeviction"
                )

    def _check_mark(self, client: Any) -> None:
        key = f"{self._prefix}mark"
        client.execute_command("SET", key, _MARK, "NX")
        mark = client.execute_command("GET", key)
        if mark != _MARK:
            raise InputError(
                f"{self.describe()} holds pieces of this store in another format ({mark!r}); "
                f"mount with the blockstore that wrote them"
            )


def _connect(address: Address) -> Any:
    """To the first host that answers, or to the whole cluster that it belongs to."""
    options: dict[str, Any] = {
        "username": address.user,
        "password": address.password,
        "socket_timeout": SOCKET_WAIT_S,
        "socket_connect_timeout": SOCKET_WAIT_S,
    }
    if address.tls:
        options |= {"ssl": True, "ssl_ca_certs": address.ca_file, "ssl_check_hostname": True}
        options |= {"ssl_certfile": address.cert_file, "ssl_keyfile": address.key_file}
    host, port, clustered = _first_that_answers(address, options)
    if not clustered:
        return valkey.Valkey(host=host, port=port, db=address.database, retry=Retry(NoBackoff(), 0), **options)
    if address.database:
        raise InputError(f"{address} is a cluster, which has database 0 only; take /{address.database} off the URL")
    node: Any = ClusterNode  # untyped
    return ValkeyCluster(
        startup_nodes=[node(host, port) for host, port in address.hosts],
        require_full_coverage=False,
        cluster_error_retry_attempts=_CLUSTER_TRIES,
        **options,
    )


def _first_that_answers(address: Address, options: dict[str, Any]) -> tuple[str, int, bool]:
    last: Exception = OSError("no host")
    for host, port in address.hosts:
        probe: Any = valkey.Valkey(host=host, port=port, retry=Retry(NoBackoff(), 0), **options)
        try:
            return host, port, str(probe.info("cluster").get("cluster_enabled")) == "1"
        except _AWAY as error:
            last = error
        finally:
            probe.close()
    raise last


def _masters(client: Any) -> list[tuple[str, Any]]:
    """HOST:PORT and client of all servers that hold pieces, by the newest map of a cluster."""
    if not isinstance(client, ValkeyCluster):
        options = client.connection_pool.connection_kwargs
        return [(join(options["host"], options["port"]), client)]
    cluster: Any = client  # much of it is untyped
    cluster.nodes_manager.initialize()
    if len(cluster.nodes_manager.slots_cache) != _SLOTS:
        raise ValkeyError("no node of the cluster has some of its slots")
    return [(node.name, cluster.get_valkey_connection(node)) for node in cluster.get_primaries()]
