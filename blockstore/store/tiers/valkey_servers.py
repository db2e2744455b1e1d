"""The servers behind the URL of a Valkey tier: one, or the masters of a cluster, found out by asking."""

from __future__ import annotations

import threading
import time
from binascii import crc_hqx
from typing import Any, Final, Protocol

import valkey
from valkey.backoff import NoBackoff
from valkey.cluster import ClusterNode, ValkeyCluster
from valkey.exceptions import (
    AskError,
    AuthenticationError,
    ClusterDownError,
    ConnectionError,
    MovedError,
    TimeoutError,
    ValkeyClusterException,
    ValkeyError,
)
from valkey.retry import Retry

from blockstore.errors import InputError
from blockstore.store.tiers.valkey_address import Address, join
from blockstore.store.tiers.valkey_connection import SOCKET_WAIT_S, Health, Pool, Step, connection_class

CLIENT_ERRORS: Final = (ValkeyError, ValkeyClusterException, OSError)
"""All that the client raises; the second is none of the first."""

NONSENSE: Final = (AttributeError, IndexError, KeyError, TypeError, ValueError)
"""And what its parsers of long answers raise for one that no Valkey gives."""

_RELOAD_S: Final = 1.0
"""The map of the cluster is asked for at most so often: it is five milliseconds of Python each time."""

_HOPS_MAX: Final = 3
"""Nodes that a command is tried at. A slot that moves needs two; more is a cluster that does not know itself."""

_SLOTS: Final = 16384


class Servers(Protocol):
    """Every method raises what the client raises."""

    def ask(self, key: str, *steps: Step) -> Any:
        """The last answer to these steps about `key`, of the server that has it. All may be sent twice."""

    def masters(self) -> list[tuple[str, Any]]:
        """HOST:PORT and client of each server that holds pieces, by the newest map. Raises when one is not known."""

    def layout(self) -> object:
        """The same while every key stays where it is: which servers, since which start, with which slots. Raises the
        client's error while keys are moved from one to another."""

    def close(self) -> None: ...


def connect(address: Address, health: Health) -> Servers:
    """To the first host that answers, or to the whole cluster that it belongs to. Raises InputError for a database of
    a cluster, and what the client raises when nobody answers."""
    options: dict[str, Any] = {
        "connection_class": connection_class(health, address),
        "username": address.user,
        "password": address.password,
        "socket_timeout": SOCKET_WAIT_S,
        "retry": Retry(NoBackoff(), 0),
    }
    host, port, clustered = _first_that_answers(address, options)
    if not clustered:
        return _Single(Pool(host=host, port=port, db=address.database, **options))
    if address.database:
        raise InputError(f"{address} is a cluster, which has database 0 only; take /{address.database} off the URL")
    return _Cluster(address, (host, port), options)


def _first_that_answers(address: Address, options: dict[str, Any]) -> tuple[str, int, bool]:
    last: Exception = OSError("no host")
    for host, port in address.hosts:
        pool = Pool(host=host, port=port, **options)
        try:
            cluster: Any = valkey.Valkey(connection_pool=pool).info("cluster")
            return host, port, str(cluster.get("cluster_enabled")) == "1"
        except AuthenticationError:
            raise
        except CLIENT_ERRORS as error:
            last = error
        except NONSENSE:
            last = ValkeyError(f"{join(host, port)} does not answer as Valkey or Redis does")
        finally:
            pool.close()
    raise last


class _Single:
    def __init__(self, pool: Pool) -> None:
        self._pool: Final = pool
        self._client: Final = valkey.Valkey(connection_pool=pool)

    def ask(self, key: str, *steps: Step) -> Any:
        return self._pool.ask(steps)

    def masters(self) -> list[tuple[str, Any]]:
        options = self._pool.connection_kwargs
        return [(join(options["host"], options["port"]), self._client)]

    def layout(self) -> object:
        return _start_of(self._client)

    def close(self) -> None:
        self._pool.close()


class _Cluster:
    """The client's own way with a node that fails is to ask for a new map for each call, and to forget the node: too
    much processor time beside the faults of others, and in the end no node is left. Here calls are sent by its map,
    and the map is asked for anew at most once in _RELOAD_S."""

    def __init__(self, address: Address, first: tuple[str, int], options: dict[str, Any]) -> None:
        node: Any = ClusterNode  # untyped
        # Only with a URL does the client take another class of pools.
        self._client: Final[Any] = ValkeyCluster(
            url=f"valkey://{join(*first)}",
            startup_nodes=[node(*first), *(node(host, port) for host, port in address.hosts)],
            connection_pool_class=Pool,
            require_full_coverage=False,
            cluster_error_retry_attempts=0,
            **options,
        )
        self._reloading: Final = threading.Lock()
        self._reload_from_s = 0.0

    def ask(self, key: str, *steps: Step) -> Any:
        node, asking = self._node_of(key), False
        for _ in range(_HOPS_MAX):
            try:
                pool = self._client.get_valkey_connection(node).connection_pool
                return pool.ask(steps, asking=asking)
            except AskError as error:  # MovedError too
                asking = not isinstance(error, MovedError)
                if asking and len(steps) > 1:  # a node takes no transactions for a slot that it is about to get
                    raise ValkeyError(f"slot {error.slot_id} is being handed over") from None
                if not asking:
                    self._reload()
                node = self._client.get_node(node_name=f"{error.host}:{error.port}")
                if node is None:
                    raise
            except ClusterDownError:
                self._reload()
                raise
            except (ConnectionError, TimeoutError):
                self._reload()
                before, node, asking = node, self._node_of(key), False
                if node.name == before.name:
                    raise
        raise ValkeyError(f"its nodes disagree about where {key} is")

    def masters(self) -> list[tuple[str, Any]]:
        nodes = self._client.nodes_manager
        nodes.initialize()
        if len(nodes.slots_cache) != _SLOTS:
            raise ValkeyError("no node of the cluster has some of its slots")
        found = {slot_nodes[0].name: slot_nodes[0] for slot_nodes in nodes.slots_cache.values()}
        return [(name, self._client.get_valkey_connection(found[name])) for name in sorted(found)]

    def layout(self) -> object:
        starts = []
        for name, master in self.masters():
            if any(node["migrations"] for node in master.execute_command("CLUSTER NODES").values()):
                raise ValkeyError(f"{name} is handing slots over; wait until it has")
            starts.append((name, _start_of(master)))
        return starts, {slot: nodes[0].name for slot, nodes in self._client.nodes_manager.slots_cache.items()}

    def close(self) -> None:
        for node in self._client.get_nodes():
            if node.valkey_connection is not None:
                node.valkey_connection.connection_pool.disconnect()

    def _node_of(self, key: str) -> Any:
        slot = crc_hqx(key.encode(), 0) % _SLOTS  # of the whole key, for ours have no braces
        nodes = self._client.nodes_manager.slots_cache.get(slot)
        if not nodes:
            self._reload()
            nodes = self._client.nodes_manager.slots_cache.get(slot)
        if not nodes:
            raise ValkeyError(f"no node of the cluster has slot {slot}")
        return nodes[0]

    def _reload(self) -> None:
        """Raises ValkeyClusterException when no node answers."""
        if time.monotonic() < self._reload_from_s or not self._reloading.acquire(blocking=False):
            return
        try:
            self._client.nodes_manager.initialize()
        finally:
            self._reload_from_s = time.monotonic() + _RELOAD_S
            self._reloading.release()


def _start_of(server: Any) -> str:
    """A name of its process, another one after each start."""
    return str(server.info("server")["run_id"])
