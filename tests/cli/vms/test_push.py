"""`blockstore push` and `pull`: a snapshot goes from one store to another by way of a Valkey server."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
from benchlab.peers.valkey_server import Server
from valkey import Valkey

from blockstore.cli.vms.pull import pull as pull_command
from blockstore.daemon.host import mounts
from blockstore.errors import BusyError
from blockstore.store.remote import pushed
from blockstore.vm.snapshot import push as pushing
from blockstore.vm.snapshot import snapshot_file
from blockstore.vm.snapshot.overlays import Base
from blockstore.vm.snapshot.snapshot_file import Facts
from tests.cli.runner import invoke
from tests.cli.vms.test_fork import restored, runs
from tests.cli.vms.test_run import NAME, on
from tests.cli.vms.test_run import running as started
from tests.cli.vms.test_snapshot import RUNS
from tests.daemon.lab import (
    NEEDS_QEMU,
    PROJECT,
    Lab,
    Mounted,
    apart,
    blockstore,
    cold,
    drop,
    ended,
    mixed_blocks,
    noisy,
    one_line,
    put,
    said,
    spawn,
    until,
)
from tests.daemon.tiers.test_paging import server_at

pytestmark = pytest.mark.mount

MAY_BE_AWAY = pytest.mark.logs("valkey://.* is away: ")
"""The server of a test ends before its mounts do, and some blocks may still be to come then."""

BLOCK = 4096
MIB = 1 << 20
MEMORY_BYTES = 8 * MIB
DEVICE = b"what QEMU says of its devices" * 100

READS = """
import sys
print("begins", flush=True)
with open(sys.argv[1], "rb", buffering=0) as file:
    file.seek(6 << 20)
    print(len(file.read(1 << 20)), flush=True)
"""
"""Reads what comes last."""


def url_of(server: Server) -> str:
    return f"valkey://127.0.0.1:{server.port}"


def memory(seed: int) -> bytes:
    """Zeros, blocks that come again, blocks of all kinds, and noise."""
    blocks = [*mixed_blocks(seed), *mixed_blocks(seed)]
    data = bytes(16 * BLOCK) + b"".join(blocks)
    return (data + noisy(MEMORY_BYTES - MIB - len(data), seed)).ljust(MEMORY_BYTES, b"\0")


def keep(mounted: Mounted, name: str, content: bytes, *disks: Base) -> None:
    """A snapshot that no QEMU has made."""
    facts = Facts("vm", 0.0, "QEMU", "pc", "qemu-system-x86_64", ["-m", "8"], "/", "memory", disks)
    mount = mounts.find(mounted.path)
    tail = os.memfd_create("tail")
    os.pwrite(tail, DEVICE, 0)
    snapshot_file.complete(tail, MEMORY_BYTES, facts)
    with snapshot_file.making(mount, snapshot_file.domain_of(name)) as (path, descriptor):
        os.pwrite(descriptor, content + os.pread(tail, MIB, 0), 0)
        place = snapshot_file.place_of(mount, snapshot_file.domain_of(name), name.rsplit("/", 1)[-1])
        snapshot_file.publish(mount, path, place)
    os.close(tail)


def place_of(mounted: Mounted, name: str) -> Path:
    return mounted.path / f".{name}.snapshot"


def push(mounted: Mounted, server: Server, *arguments: str) -> str:
    result = blockstore("push", *arguments, "--to", url_of(server), *on(mounted))
    assert result.returncode == 0 and not result.stderr, result
    return result.stdout


def pull(mounted: Mounted, server: Server, *arguments: str) -> str:
    result = blockstore("pull", *arguments, "--from", url_of(server), *on(mounted), "--verbose")
    assert result.returncode == 0 and not result.stdout, result
    return result.stderr


def arriving(mounted: Mounted) -> object:
    return mounted.total()["arriving"]


def is_whole(mounted: Mounted) -> bool:
    return blockstore("verify", str(mounted.path)).returncode == 0


def sent_bytes(server: Server) -> int:
    """By the server, so far."""
    with Valkey(port=server.port) as client:
        return int(client.info("stats")["total_net_output_bytes"])


@MAY_BE_AWAY
def test_a_snapshot_moves(lab: Lab, tmp_path: Path) -> None:
    with server_at(tmp_path) as server:
        a_snapshot_moves(lab, server)


def a_snapshot_moves(lab: Lab, server: Server) -> None:
    content = memory(1)
    here = lab.mount(name="here")
    keep(here, "base", content)
    push(here, server, "base")
    there = lab.mount(name="there")
    put(there.path / "vm1", content[: 4 * MIB])
    there.evict()
    before = sent_bytes(server)
    told = pull(there, server, "base", "--as", "copy", "--wait")
    half = len({content[at : at + BLOCK] for at in range(0, 4 * MIB, BLOCK)}) - 1
    assert told.startswith(f"{half:,} of "), told
    assert 3 * MIB < sent_bytes(server) - before < 5 * MIB and arriving(there) is None
    server.stop()
    assert cold(place_of(there, "copy"))[:MEMORY_BYTES] == content
    found = snapshot_file.find(mounts.find(there.path), "copy")
    assert found.device_state() == DEVICE and found.facts.vm == "vm"
    assert is_whole(there) and not (there.state / "sources").exists()
    assert (there.state / "arrivals").stat().st_size <= 64 << 10


@MAY_BE_AWAY
def test_a_name_with_its_domain_is_used_as_it_is_listed(lab: Lab, tmp_path: Path) -> None:
    with server_at(tmp_path) as server:
        a_name_with_its_domain(lab, server)


def a_name_with_its_domain(lab: Lab, server: Server) -> None:
    mounted = lab.mount()
    (mounted.path / "blue").mkdir()
    content = memory(9)
    keep(mounted, "blue/base", content)
    (name,) = json.loads(blockstore("snapshots", "--json", *on(mounted)).stdout)
    blocks = len({content[at : at + BLOCK] for at in range(0, len(content), BLOCK)}) - 1
    assert push(mounted, server, name).startswith(f"blue/base is in {url_of(server)} as base: {blocks} blocks, ")
    told = json.loads(push(mounted, server, name, "--as", "again", "--json"))
    assert told | {"bytes": 0} == {
        "snapshot": "blue/base",
        "name": "again",
        "to": url_of(server),
        "blocks": blocks,
        "bytes": 0,
    }
    with Valkey(port=server.port) as client:
        key = f"blockstore:{pushed.id_of('again').hex()}:piece:*"
        assert told["bytes"] == sum(client.strlen(each) for each in client.scan_iter(match=key))
    one_line(blockstore("pull", name, "--from", url_of(server), *on(mounted)), 3, "'blue/base' already")
    assert blockstore("snapshots", "delete", name, *on(mounted)).returncode == 0
    pull(mounted, server, name, "--wait")
    assert cold(mounted.path / "blue/.base.snapshot")[:MEMORY_BYTES] == content
    one_line(blockstore("pull", "red/base", "--from", url_of(server), *on(mounted)), 2, "mkdir", "red")
    assert blockstore("push", name, "--to", url_of(server), "--delete").returncode == 0
    one_line(blockstore("pull", name, "--from", url_of(server), "--as", "copy", *on(mounted)), 2, "no snapshot 'base'")


@MAY_BE_AWAY
def test_blocks_come_when_they_are_used(lab: Lab, tmp_path: Path) -> None:
    with server_at(tmp_path) as server:
        blocks_come_when_they_are_used(lab, server)


def blocks_come_when_they_are_used(lab: Lab, server: Server) -> None:
    content = memory(2)
    here = lab.mount(name="here")
    keep(here, "base", content)
    push(here, server, "base")
    there = lab.mount(name="there")
    pull(there, server, "base")
    os.kill(server.pid, signal.SIGSTOP)  # whatever has not come yet
    there.kill_daemon()
    server.stop()
    reader = spawn(READS, str(place_of(there, "base")))
    assert said(reader) == "begins"
    until(lambda: "away" in invoke("status", str(there.path)).stderr, "somebody says that the source is away")
    assert not ended(reader.pid, 0.1)
    server.start()
    assert said(reader) == str(MIB)
    reader.wait()
    assert cold(place_of(there, "base"))[:MEMORY_BYTES] == content
    until(lambda: arriving(there) is None, "all has come")
    assert is_whole(there)


@MAY_BE_AWAY
def test_written_to_and_cloned_before_it_came(lab: Lab, tmp_path: Path) -> None:
    with server_at(tmp_path) as server:
        written_to_and_cloned_before_it_came(lab, server)


def written_to_and_cloned_before_it_came(lab: Lab, server: Server) -> None:
    content = memory(3)
    here = lab.mount(name="here")
    keep(here, "base", content)
    push(here, server, "base")
    there = lab.mount(name="there")
    pull(there, server, "base")
    os.kill(server.pid, signal.SIGSTOP)
    with place_of(there, "base").open("rb") as source, (there.path / "vm").open("w+b") as target:
        assert os.copy_file_range(source.fileno(), target.fileno(), MEMORY_BYTES) == MEMORY_BYTES
        os.pwrite(target.fileno(), b"x" * BLOCK, 5 * MIB)
    os.kill(server.pid, signal.SIGCONT)
    expected = content[: 5 * MIB] + b"x" * BLOCK + content[5 * MIB + BLOCK :]
    drop(there.path / "vm")
    assert cold(there.path / "vm") == expected
    there.kill_daemon()
    until(lambda: arriving(there) is None, "all has come")
    assert cold(there.path / "vm") == expected and cold(place_of(there, "base"))[:MEMORY_BYTES] == content
    assert is_whole(there)


@MAY_BE_AWAY
def test_read_while_it_is_pulled(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with server_at(tmp_path) as server:
        read_while_it_is_pulled(lab, server, monkeypatch)


def read_while_it_is_pulled(lab: Lab, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a backup or a search reads of the file before its blocks are due must not stay in the page cache."""
    content = memory(6)
    mounted = lab.mount()
    keep(mounted, "base", content)
    push(mounted, server, "base")
    make_due = pushing._made_due

    def look_before(mount: mounts.Mount, *arguments: Any) -> tuple[int, int]:
        (path,) = mount.path.glob(".*.snapshot-of-*")
        path.read_bytes()
        return make_due(mount, *arguments)

    monkeypatch.setattr(pushing, "_made_due", look_before)
    arguments = ["base", "--as", "copy", "--from", url_of(server), *on(mounted)]
    apart(lambda: pull_command.main(arguments, standalone_mode=False) and None, 30)
    assert place_of(mounted, "copy").read_bytes()[:MEMORY_BYTES] == content


@pytest.mark.logs("the host that it was to come from has not got it")
@MAY_BE_AWAY
def test_what_is_deleted_too_early_is_said_so(lab: Lab, tmp_path: Path) -> None:
    with server_at(tmp_path) as server:
        what_is_deleted_too_early_is_said_so(lab, server)


def what_is_deleted_too_early_is_said_so(lab: Lab, server: Server) -> None:
    here = lab.mount(name="here")
    keep(here, "base", memory(4))
    push(here, server, "base")
    there = lab.mount(name="there")
    pull(there, server, "base")
    os.kill(server.pid, signal.SIGSTOP)
    there.kill_daemon()
    os.kill(server.pid, signal.SIGCONT)
    result = blockstore("push", "base", "--to", url_of(server), "--delete")
    assert result.returncode == 0, result
    until(lambda: "not there any more" in invoke("status", str(there.path)).stderr, "it is told")
    with pytest.raises(OSError, match="Input/output"):
        cold(place_of(there, "base"))
    place_of(there, "base").unlink()
    until(lambda: arriving(there) is None, "nothing is waited for any more")


@MAY_BE_AWAY
def test_a_password(lab: Lab, tmp_path: Path) -> None:
    server = Server(tmp_path, "--requirepass", "secret")
    try:
        a_password(lab, server, tmp_path)
    finally:
        server.stop()


def a_password(lab: Lab, server: Server, folder: Path) -> None:
    mounted = lab.mount()
    keep(mounted, "base", memory(7))
    (folder / "password").write_text("secret")
    at = ("--from", url_of(server))
    result = blockstore("push", "base", "--to", url_of(server), *on(mounted), BLOCKSTORE_SPILL_PASSWORD="secret")
    assert result.returncode == 0, result
    one_line(
        invoke("pull", "base", "--as", "copy", *at, *on(mounted), BLOCKSTORE_SPILL_PASSWORD="secret"),
        1,
        "?password-file=",
    )
    at = ("--from", f"{url_of(server)}?password-file={os.path.relpath(folder / 'password', PROJECT)}")
    result = blockstore("pull", "base", "--as", "copy", *at, *on(mounted), "--wait")
    assert result.returncode == 0, result


@MAY_BE_AWAY
def test_two_push_at_once(lab: Lab, tmp_path: Path) -> None:
    with server_at(tmp_path) as server:
        two_push_at_once(lab, server)


def two_push_at_once(lab: Lab, server: Server) -> None:
    """The one that began first may not say that all is well: its pieces are gone."""
    mounted = lab.mount()
    keep(mounted, "base", memory(8))
    snapshot = snapshot_file.find(mounts.find(mounted.path), "base")
    first, second = (pushing.open_place(url_of(server), "base") for _ in range(2))
    others: list[pushing.Sent] = []

    def report(done: int, total: int) -> None:
        if not others:
            others.append(pushing.push(snapshot, second, "base", lambda done, total: None))

    with pytest.raises(BusyError, match="base"):
        pushing.push(snapshot, first, "base", report)
    assert pushed.read_head(second, "base").blocks == others[0].blocks
    assert len(pushed.read_index(second, pushed.read_head(second, "base")).where) == others[0].blocks
    for tier in (first, second):
        tier.close()


@MAY_BE_AWAY
def test_bad_input(lab: Lab, tmp_path: Path) -> None:
    with server_at(tmp_path) as server:
        bad_input(lab, server)


def bad_input(lab: Lab, server: Server) -> None:
    mounted = lab.mount()
    keep(mounted, "base", memory(5))
    url, nowhere = url_of(server), "valkey://127.0.0.1:1"
    one_line(invoke("push", "base", *on(mounted), "--to", "ftp://x"), 2, "ftp://x", "valkey://HOST")
    one_line(invoke("push", "base", *on(mounted), "--to", "file:/tmp/x"), 2, "file:/tmp/x", "snapshots export")
    one_line(invoke("push", "none", *on(mounted), "--to", url), 2, "none", "no snapshot")
    refused = invoke("push", "base", *on(mounted), "--to", nowhere)
    one_line(refused, 1, "valkey://127.0.0.1:1 is away: no connection to 127.0.0.1:1 (Connection refused)")
    one_line(invoke("pull", "base", *on(mounted), "--from", url, "--as", "copy"), 2, "base", "push it there first")
    push(mounted, server, "base")
    one_line(invoke("push", "base", *on(mounted), "--to", url), 3, "base", "--as", "--delete")
    one_line(invoke("pull", "base", *on(mounted), "--from", url), 3, "base", "already")
    one_line(invoke("pull", "base", *on(mounted), "--from", url, "--as", "no/x"), 2, "mkdir")
    one_line(invoke("pull", "base", *on(mounted), "--from", nowhere, "--as", "copy"), 1, "127.0.0.1:1")
    assert blockstore("push", "base", "--to", url, "--delete").returncode == 0
    one_line(invoke("push", "base", "--to", url, "--delete"), 2, "base", "no snapshot")
    with Valkey(port=server.port) as client:
        client.set(f"blockstore:{pushed.id_of('base').hex()}:piece:1", "of a push that was killed")
        assert blockstore("push", "base", "--to", url, "--delete").returncode == 0
        assert not client.keys("*piece*")
    assert sorted(each for each in os.listdir(mounted.path) if each.startswith(".")) == [".base.snapshot"]


@NEEDS_QEMU
@MAY_BE_AWAY
def test_a_vm_moves(lab: Lab, tmp_path: Path) -> None:
    with server_at(tmp_path) as server:
        a_vm_moves(lab, server)


def a_vm_moves(lab: Lab, server: Server) -> None:
    here = lab.mount(name="here")
    with started(here, command=RUNS):
        assert blockstore("snapshot", NAME, "base", *on(here)).returncode == 0
    push(here, server, "base")
    there = lab.mount(name="there")
    pull(there, server, "base")
    with restored(there):
        assert runs(there, "vm2")
