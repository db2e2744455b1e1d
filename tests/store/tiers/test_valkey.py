from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext, suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from benchlab.peers.ports import Port
from benchlab.peers.valkey_server import Server

from blockstore.errors import InputError
from blockstore.store.tiers import PieceMissing, Tier, TierAway, open_tier, valkey_connection
from blockstore.store.tiers.valkey import CONNECTIONS_MAX, ValkeyTier
from blockstore.store.tiers.valkey_address import PASSWORD_VARIABLE, parse
from blockstore.store.tiers.valkey_connection import command, transaction
from tests.daemon.lab import until

pytestmark = pytest.mark.long

STORE, OTHER = b"\x01" * 16, b"\x02" * 16


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("single"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    options = ("--cluster-enabled", "yes", "--cluster-node-timeout", "500", "--cluster-require-full-coverage", "no")
    place = tmp_path_factory.mktemp("cluster")
    servers: list[Server] = []
    try:
        servers += [Server(place, *options) for _ in range(3)]
        client = shutil.which("valkey-cli") or "redis-cli"
        nodes = [f"127.0.0.1:{server.port}" for server in servers]
        command = [client, "--cluster", "create", *nodes, "--cluster-yes", "--cluster-replicas", "0"]
        made = subprocess.run(command, capture_output=True, text=True, timeout=30)
        assert made.returncode == 0, made.stdout + made.stderr
        put_in_the_end(tier_at(*servers), range(30))
        yield servers
    finally:
        for server in servers:
            server.stop()


def tier_at(*servers: Server, store: bytes = STORE) -> ValkeyTier:
    return ValkeyTier("valkey://" + ",".join(f"127.0.0.1:{server.port}" for server in servers), store)


def put_in_the_end(tier: Tier, pieces: range) -> None:
    """A cluster says for some seconds that it is down after all its nodes are up."""

    def takes(piece: int) -> bool:
        try:
            tier.put(piece, b"y")
        except TierAway:
            return False
        return True

    for piece in pieces:
        until(partial(takes, piece), "the cluster takes it")


def works_like_a_dict(tier: Tier, seed: int) -> None:
    chance = random.Random(seed)
    model: dict[int, bytes] = {}
    for _ in range(300):
        piece = chance.randrange(20)
        if chance.random() < 0.3:
            model[piece] = chance.randbytes(chance.randrange(1, 5000))
            tier.put(piece, memoryview(model[piece]))
        elif chance.random() < 0.2:
            model.pop(piece, None)
            tier.delete(piece)
        elif piece in model:
            offset = chance.randrange(len(model[piece]))
            length = chance.randrange(1, len(model[piece]) - offset + 1)
            assert tier.read(piece, offset, length) == model[piece][offset : offset + length]
            with pytest.raises(PieceMissing):
                tier.read(piece, offset, len(model[piece]) - offset + 1)
        else:
            with pytest.raises(PieceMissing):
                tier.read(piece, 0, 1)
    assert tier.pieces() == sorted(model)
    for piece in model:
        tier.delete(piece)


def test_single(single: Server) -> None:
    tier = tier_at(single)
    tier.check()
    works_like_a_dict(tier, 1)
    words = memoryview(bytes(range(64))).cast("Q")  # as the arrays of the store are
    tier.put(1, words)
    assert tier.read(1, 0, 64) == words.tobytes()
    tier.delete(1)
    tier.close()


def test_cluster(cluster: list[Server]) -> None:
    tier = tier_at(cluster[0])
    tier.check()
    for piece in tier.pieces():
        tier.delete(piece)
    works_like_a_dict(tier, 2)
    tier.close()


def test_two_stores_on_one_server(single: Server) -> None:
    one, two = tier_at(single), tier_at(single, store=OTHER)
    one.put(1, b"one")
    two.put(1, b"two")
    two.put(2, b"two")
    assert (one.read(1, 0, 3), one.pieces(), two.pieces()) == (b"one", [1], [1, 2])
    one.delete(1)
    assert two.read(1, 0, 3) == b"two"
    one.close()
    two.close()


@pytest.mark.parametrize("late", [("SET", b"old"), ("UNLINK",)])
def test_what_was_given_up_does_nothing_when_it_comes_late(single: Server, late: tuple[str | bytes, ...]) -> None:
    tier = tier_at(single)
    key = tier._key(40)
    with tier._call() as servers, socket.create_connection(("127.0.0.1", single.port)) as slow:
        slow.sendall(command("WATCH", key)[0])
        assert slow.recv(99) == b"+OK\r\n"
        tier.put(40, b"new")
        slow.sendall(transaction(late[0], key, *late[1:])[0])
        assert slow.recv(99).endswith(b"*-1\r\n")
        assert tier.read(40, 0, 3) == b"new"
        # and this is what would have happened
        servers.ask(key, command(late[0], key, *late[1:]))
        with pytest.raises(PieceMissing) if len(late) == 1 else nullcontext():
            assert tier.read(40, 0, 3) == b"old"
    tier.delete(40)
    tier.close()


def test_each_change_is_watched(single: Server) -> None:
    tier = tier_at(single)

    def done() -> list[int]:
        with tier._call() as servers:
            stats = servers.masters()[0][1].info("commandstats")
        return [stats.get(f"cmdstat_{name}", {"calls": 0})["calls"] for name in ("watch", "multi", "exec")]

    before = done()
    tier.put(42, b"x")
    tier.delete(42)
    assert done() == [calls + 2 for calls in before]
    tier.close()


def test_a_change_beside_another(single: Server) -> None:
    tier, key = tier_at(single), "other"
    with tier._call() as servers:
        steps = command("WATCH", key), command("SET", key, b"x"), transaction("SET", key, b"y")
        with pytest.raises(TierAway, match="somebody else"):
            tier._changed(key, servers.ask(key, *steps))
        servers.ask(key, command("UNLINK", key))
    tier.close()


def test_many_threads(single: Server) -> None:
    tier = tier_at(single)
    for piece in range(100, 108):
        tier.put(piece, bytes([piece]) * 5000)

    def read(number: int) -> bool:
        piece = 100 + number % 8
        return tier.read(piece, number, 100) == bytes([piece]) * 100

    with ThreadPoolExecutor(2 * CONNECTIONS_MAX) as threads:
        assert all(threads.map(read, range(2000)))
    for piece in range(100, 108):
        tier.delete(piece)
    tier.close()


def test_a_server_started_again(tmp_path: Path) -> None:
    server = Server(tmp_path)
    try:
        tier = tier_at(server)
        tier.put(1, b"x")
        with ThreadPoolExecutor(8) as threads:  # some spare connections
            assert all(threads.map(lambda _: tier.read(1, 0, 1) == b"x", range(100)))
        server.stop()
        server.start()
        with pytest.raises(PieceMissing, match="emptied"):  # at once, though all its connections are gone
            tier.read(1, 0, 1)
        tier.close()
    finally:
        server.stop()


def pieces_away(tier: Tier, pieces: range) -> set[int]:
    away = set()
    for piece in pieces:
        try:
            assert tier.read(piece, 0, 1) == b"y"
        except TierAway:
            away.add(piece)
    return away


@pytest.mark.nightly
def test_a_node_that_stands_still(cluster: list[Server], monkeypatch: pytest.MonkeyPatch) -> None:
    tier, waited_for = tier_at(*cluster), list[tuple[str, int]]()
    put_in_the_end(tier, range(30))
    failed = tier._health.failed

    def note(server: tuple[str, int], why: str) -> None:
        waited_for.append(server)
        failed(server, why)

    os.kill(cluster[1].pid, signal.SIGSTOP)
    try:
        with monkeypatch.context() as patched:  # no time passes after which it would be tried again
            patched.setattr(valkey_connection, "time", SimpleNamespace(monotonic=lambda: 0.0))
            patched.setattr(tier._health, "failed", note)
            away = pieces_away(tier, range(30))
        assert 0 < len(away) < 30
        assert waited_for == [("127.0.0.1", cluster[1].port)], "each waited for the same node"
    finally:
        os.kill(cluster[1].pid, signal.SIGCONT)
    put_in_the_end(tier, range(30))
    assert not pieces_away(tier, range(30))
    tier.close()


def test_a_slot_that_moves(cluster: list[Server]) -> None:
    tier = tier_at(*cluster)
    put_in_the_end(tier, range(30))
    client: Any = tier._connect()._client  # type: ignore[attr-defined]
    slot = client.keyslot(tier._key(50))
    there = client.nodes_manager.get_node_from_slot(slot)
    other = next(node for node in client.get_primaries() if node.name != there.name)
    ids = {name: node["node_id"] for name, node in client.cluster_nodes().items()}

    def set_slot(node: Any, *words: str) -> None:
        client.get_valkey_connection(node).execute_command("CLUSTER SETSLOT", slot, *words)

    set_slot(other, "IMPORTING", ids[there.name])
    set_slot(there, "MIGRATING", ids[other.name])
    with pytest.raises(TierAway, match="handed over"):
        tier.put(50, b"y")
    with tier._call() as servers:
        servers.ask(tier._key(50), command("SET", tier._key(50), b"y"))
    assert tier.read(50, 0, 1) == b"y"
    assert client.get_valkey_connection(other).execute_command("CLUSTER COUNTKEYSINSLOT", slot) == 1
    with pytest.raises(TierAway, match="handing slots over"):
        tier.pieces()
    for node in (other, there):
        set_slot(node, "NODE", ids[other.name])
    assert tier.read(50, 0, 1) == b"y"
    assert 50 in tier.pieces()
    tier.delete(50)
    assert 50 not in tier.pieces()
    tier.close()


@pytest.mark.nightly
def test_a_node_killed_and_started_again(cluster: list[Server]) -> None:
    tier = tier_at(*cluster)
    put_in_the_end(tier, range(30))
    cluster[1].stop()
    assert 0 < len(pieces_away(tier, range(30))) < 30
    with pytest.raises(TierAway):
        tier.pieces()
    cluster[1].start()
    put_in_the_end(tier, range(30))
    assert tier.pieces() == list(range(30))
    tier.close()


@pytest.mark.nightly
def test_a_whole_cluster_killed_and_started_again(cluster: list[Server]) -> None:
    tier = tier_at(cluster[0])
    put_in_the_end(tier, range(30))
    for server in cluster:
        server.stop()
    for piece in range(30):
        with pytest.raises(TierAway):
            tier.read(piece, 0, 1)
    for server in cluster:
        server.start()
    put_in_the_end(tier, range(30))
    tier.close()


def test_a_server_that_evicts_is_refused(tmp_path: Path) -> None:
    server = Server(tmp_path, "--maxmemory-policy", "allkeys-lru")
    try:
        with pytest.raises(InputError, match=f"127.0.0.1:{server.port} .*allkeys-lru.*noeviction"):
            tier_at(server).check()
    finally:
        server.stop()


def test_a_full_server_keeps_what_it_has(tmp_path: Path) -> None:
    server = Server(tmp_path, "--maxmemory", "8mb")
    kept = []
    try:
        tier = tier_at(server)
        tier.check()
        with pytest.raises(TierAway, match=r"is full: .*maxmemory"):
            for piece in range(20):
                tier.put(piece, bytes([piece]) * (1 << 20))
                kept.append(piece)
        assert kept
        assert tier.pieces() == kept
        assert all(tier.read(piece, 99, 3) == bytes([piece]) * 3 for piece in kept)
        tier.check()
        tier.delete(kept[0])
        tier.put(kept[0], b"room again")
        tier.close()
    finally:
        server.stop()


def test_credentials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    user = ["pager", "on", ">secret", "~blockstore:*", "+@all", "-config"]
    server = Server(tmp_path, "--requirepass", "right", "--user", *user)
    try:
        for password in ("wrong", ""):
            monkeypatch.setenv(PASSWORD_VARIABLE, password)
            with pytest.raises(InputError, match="credentials") as refused:
                tier_at(server).check()
            assert not password or password not in str(refused.value).replace("WRONGPASS", "")
        monkeypatch.setenv(PASSWORD_VARIABLE, "right")
        tier_at(server).check()
        (tmp_path / "password").write_text("secret\n")
        tier = ValkeyTier(f"valkey://pager@127.0.0.1:{server.port}?password-file={tmp_path}/password", STORE)
        tier.check()
        assert "secret" not in repr(tier._address) + tier.describe()
        with tier._call() as servers:
            servers.ask("", command("ACL", "SETUSER", "pager", "-unlink"))
        with pytest.raises(InputError, match="unlink"):
            tier.check()
    finally:
        server.stop()


def test_another_format_is_refused(single: Server) -> None:
    tier = tier_at(single, store=b"\x03" * 16)
    key = f"blockstore:{'03' * 16}:mark"
    with tier._call() as servers:
        servers.ask(key, command("SET", key, "blockstore tier 9"))
    with pytest.raises(InputError, match="another format"):
        tier.check()
    tier.close()


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"+OK\r\n", b":1\r\n", b"*-1\r\n", b"$-1\r\n"]
)
def test_something_else_listens(answer: bytes) -> None:
    """To each request it gives this answer, or none."""
    with socket.create_server(("127.0.0.1", 0)) as listener, ThreadPoolExecutor() as threads:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    peer, _ = listener.accept()
                    threads.submit(converse, peer)

        def converse(peer: socket.socket) -> None:
            with peer, suppress(OSError):
                while peer.recv(4096):
                    peer.sendall(answer)

        threads.submit(serve)
        tier = ValkeyTier(f"valkey://127.0.0.1:{listener.getsockname()[1]}", STORE)
        try:
            with pytest.raises((TierAway, InputError), match=r"127\.0\.0\.1"):
                tier.check()
        finally:
            tier.close()
            listener.shutdown(socket.SHUT_RDWR)


def test_nobody_listens() -> None:
    port = Port()  # where nobody can listen meanwhile
    with pytest.raises(TierAway, match=f"127.0.0.1:{port.number}"):
        ValkeyTier(f"valkey://127.0.0.1:{port.number}", STORE).check()
    port.close()


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("http://a", "begin with"),
        ("valkey://", "empty"),
        ("valkey://a,", "empty"),
        ("valkey://a:0", "port"),
        ("valkey://a:x", "port"),
        ("valkey://a/x", "database"),
        ("valkey://u:hidden@a", "password"),
        ("valkey://a?what=1", "unknown option"),
        ("valkey://a?ca-file=/etc/passwd", "without TLS"),
        ("valkeys://a?ca-file=/none", "cannot be read"),
        ("valkeys://a?key-file=/etc/passwd", "cert-file"),
        ("valkeys://a?ca-file=/etc/passwd", "PEM"),
        ("valkey://u:hid/den@a", "password"),
        ("valkey://[::1", "IPv6"),
    ],
)
def test_wrong_urls(url: str, why: str) -> None:
    with pytest.raises(InputError, match=why) as error:
        parse(url)
    assert "hid" not in str(error.value)


def test_a_url_names_a_server(single: Server) -> None:
    tier = open_tier(f"redis://127.0.0.1:{single.port}", STORE)
    tier.check()
    assert tier.describe() == f"valkey://127.0.0.1:{single.port}"
    tier.close()


def test_urls() -> None:
    address = parse("rediss://me@[::1]:7,b/3")
    assert (address.hosts, address.tls, address.database, address.user) == ((("::1", 7), ("b", 6379)), True, 3, "me")


def test_tls(tmp_path: Path) -> None:
    command = "openssl req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=store -keyout key -out cert"
    subprocess.run(
        [*command.split(), "-addext", "subjectAltName=IP:127.0.0.1"], cwd=tmp_path, check=True, capture_output=True
    )
    files = ("--tls-cert-file", f"{tmp_path}/cert", "--tls-key-file", f"{tmp_path}/key")
    held = Port()
    port = held.number
    server = Server(tmp_path, "--port", "0", "--tls-port", str(port), "--tls-auth-clients", "no", *files, port=held)
    try:
        tier = ValkeyTier(f"valkeys://127.0.0.1:{port}?ca-file={tmp_path}/cert", STORE)
        tier.check()
        tier.put(1, b"x")
        assert tier.read(1, 0, 1) == b"x"
        tier.close()
        with pytest.raises(TierAway, match="certificate"):
            ValkeyTier(f"valkeys://127.0.0.1:{port}", STORE).check()
        with pytest.raises(TierAway, match="localhost"):  # a name that the certificate has not
            ValkeyTier(f"valkeys://localhost:{port}?ca-file={tmp_path}/cert", STORE).check()
    finally:
        server.stop()
