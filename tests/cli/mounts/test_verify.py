"""`blockstore verify`: what is damaged is told and named, what can be mended is, and nothing else is touched."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from blockstore.store.state.geometry import BLOCK_BYTES
from blockstore.store.state.location import offset_of, size_of
from tests.cli.runner import invoke
from tests.daemon.lab import (
    Lab,
    Mounted,
    blockstore,
    cold,
    drop,
    mixed_blocks,
    one_line,
    put,
    ready,
    spawn,
)

pytestmark = pytest.mark.mount

CONTENT = b"".join(mixed_blocks(5))
ALONE = 84
"""A block that no other one is like."""

VERIFICATIONS = 10
OVERWRITE = """
import mmap, os, random, sys
chance, buffer = random.Random(1), mmap.mmap(-1, 1 << 18)
stems = [chance.randbytes(2048) + bytes(2048) for _ in range(50)]
descriptor = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT | os.O_DIRECT)
os.pwrite(descriptor, buffer, 0)
print("ready", flush=True)
while True:
    for place in range(0, len(buffer), 4096):
        buffer[place : place + 4096] = chance.choice(stems)
        buffer[place + chance.randrange(2048)] ^= chance.randrange(1, 256)
    os.pwrite(descriptor, buffer, chance.randrange(4) * len(buffer))
"""
"""Blocks that are patches against each other, over and over: rows are freed and used anew all the time."""


def flip_record(state: Path, volume: int, block: int, bits: int) -> None:
    """Change the record of a block of a volume, in so many bits of one byte."""
    row = int.from_bytes(read(state / f"volume-{volume}", BLOCK_BYTES + 8 * block, 4), "little")
    where = int.from_bytes(read(state / "rows-where", 8 * row, 8), "little")
    offset, size = offset_of(where), size_of(where)
    place = offset + size // 2
    byte = read(state / "pool", place, 1)[0]
    write(state / "pool", place, bytes([byte ^ ((1 << bits) - 1)]))


def tables(state: Path) -> dict[str, bytes]:
    """Everything in a state that is not rebuilt at each start."""
    kept = [path for path in state.iterdir() if path.name.startswith(("superblock", "volume-", "rows-", "domains"))]
    return {path.name: path.read_bytes() for path in kept}


def read(path: Path, offset: int, length: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(length)


def write(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def verify(*arguments: object, code: int) -> dict[str, Any]:
    """`verify --json`."""
    result = invoke("verify", *arguments, "--json")
    assert result.returncode == code and not result.stderr, result
    told: dict[str, Any] = json.loads(result.stdout)
    assert told["ok"] == (code == 0)
    return told


def test_all_is_well(lab: Lab) -> None:
    mounted = lab.mount()
    put(mounted.path / "vm1", CONTENT)
    (mounted.path / "blue").mkdir()
    put(mounted.path / "blue/vm2", CONTENT)
    told = verify(mounted.path, code=0)
    assert told["volumes"] == 2 and told["blocks"] == 2 * len(CONTENT) // BLOCK_BYTES and not told["findings"]
    assert told["rows"] > 0 and told["record_bytes"] == mounted.total()["stored"]
    shown = blockstore("verify", str(mounted.path))
    assert shown.returncode == 0 and shown.stdout.endswith(": all is well\n") and not shown.stderr


def test_damage_is_named_and_mended_under_a_mount(lab: Lab) -> None:
    mounted = lab.mount()
    put(mounted.path / "vm1", CONTENT)
    drop(mounted.path / "vm1")
    flip_record(mounted.state, 2, 40, bits=1)
    found = verify(mounted.path, code=6)["findings"]
    assert {"record", "block"} <= {finding["kind"] for finding in found}
    assert ("vm1", 40 * BLOCK_BYTES) in {(finding["volume"], finding["offset"]) for finding in found}
    shown = blockstore("verify", str(mounted.path))
    assert shown.returncode == 6 and f"vm1: the block at {40 * BLOCK_BYTES} cannot be read" in shown.stdout, shown
    told = verify(mounted.path, "--repair", code=0)
    assert told["found"] == told["repaired"] == 1
    verify(mounted.path, code=0)
    assert cold(mounted.path / "vm1") == CONTENT


def test_what_is_written_meanwhile_is_no_damage(lab: Lab) -> None:
    """And so is nothing of it mended, which would free what is in use."""
    mounted = lab.mount()
    with ready(spawn(OVERWRITE, str(mounted.path / "vm1"))), ready(spawn(OVERWRITE, str(mounted.path / "vm2"))):
        for _ in range(VERIFICATIONS):
            assert not verify(mounted.path, "--repair", code=0)["findings"]
    verify(mounted.path, code=0)


@pytest.mark.logs(r"block \d+ cannot be decoded: ")
def test_what_cannot_be_mended_stays_unreadable_until_it_is_written(lab: Lab) -> None:
    mounted = lab.mount()
    path = mounted.path / "vm1"
    put(path, CONTENT)
    drop(path)
    flip_record(mounted.state, 2, ALONE, bits=5)
    verify(mounted.path, "--repair", code=6)
    verify(mounted.path, code=6)
    with pytest.raises(OSError, match="Input/output"), path.open("rb") as file:
        file.seek(ALONE * BLOCK_BYTES)
        file.read(BLOCK_BYTES)
    checked = blockstore("status", str(mounted.path), "--check")
    assert checked.returncode == 2 and "corrupt" in checked.stdout, checked
    descriptor = os.open(path, os.O_RDWR)
    os.pwrite(descriptor, CONTENT[ALONE * BLOCK_BYTES :][:BLOCK_BYTES], ALONE * BLOCK_BYTES)
    os.close(descriptor)
    assert cold(path) == CONTENT
    verify(mounted.path, "--repair", code=0)


@pytest.mark.logs(r"block \d+ cannot be decoded: ", "the state in .*mnt.state is damaged: ")
def test_a_state_that_nobody_serves(lab: Lab) -> None:
    """Looking changes nothing; repair makes a state that was refused mountable, and loses only what is damaged."""
    mounted = lab.mount()
    put(mounted.path / "vm1", CONTENT)
    one_line(invoke("verify", "--state", mounted.state), 3, mounted.state)
    assert mounted.umount().returncode == 0
    state = mounted.state
    verify("--state", state, code=0)
    write(state / "volume-2", BLOCK_BYTES + 8 * 70, (1 << 31 | 12345).to_bytes(8, "little"))
    before = tables(state)
    found = verify("--state", state, code=6)["findings"]
    assert {(finding["volume"], finding["offset"]) for finding in found if finding["kind"] == "block"} == {
        ("vm1", 70 * BLOCK_BYTES)
    }
    one_line(invoke("mount", lab.mountpoint(), "--state", state), 4, state, "verify", "--repair")
    assert tables(state) == before, "a refused state was changed"
    verify("--state", state, "--repair", code=6)
    again = lab.mount(state=state)
    with (again.path / "vm1").open("rb") as file:
        assert file.read(70 * BLOCK_BYTES) == CONTENT[: 70 * BLOCK_BYTES]
    found = verify(again.path, code=6)["findings"]
    assert [finding["offset"] for finding in found] == [70 * BLOCK_BYTES] and "lost" in found[0]["text"]


def test_what_a_killed_daemon_left_is_told_and_put_right(lab: Lab) -> None:
    mounted = lab.mount()
    put(mounted.path / "vm1", CONTENT)
    mounted.kill()
    assert blockstore("umount", str(mounted.path)).returncode == 0
    rows = mounted.state / "rows-count"
    write(rows, 4 * 5, (77).to_bytes(4, "little"))
    told = verify("--state", mounted.state, code=6)
    assert [finding["kind"] for finding in told["findings"]] == ["count"]
    assert verify("--state", mounted.state, "--repair", code=0)["repaired"] == 1
    verify("--state", mounted.state, code=0)


@pytest.mark.logs("is damaged: the map of 'vm[0-9]*' is missing")
def test_names_without_memory_and_memory_without_names(lab: Lab) -> None:
    mounted = lab.mount()
    put(mounted.path / "vm1", CONTENT)
    put(mounted.path / "vm2", CONTENT)
    assert mounted.umount().returncode == 0
    (mounted.state / "volume-3").rename(mounted.state / "elsewhere")
    found = verify("--state", mounted.state, code=6)["findings"]
    assert any(finding["kind"] == "name" and "vm2" in finding["text"] for finding in found)
    one_line(invoke("mount", lab.mountpoint(), "--state", mounted.state), 4, "vm2")
    (mounted.state / "elsewhere").rename(mounted.state / "volume-3")
    assert cold(lab.mount(state=mounted.state).path / "vm2") == CONTENT


def test_a_verification_beside_writers(mounted: Mounted) -> None:
    """What changes meanwhile is no finding."""
    path = mounted.path / "vm1"
    put(path, CONTENT * 20)
    for number in range(3):
        put(mounted.path / f"other{number}", CONTENT[number * BLOCK_BYTES :] * 10)
        verify(mounted.path, code=0)
        (mounted.path / f"other{number}").unlink()


def test_bad_input(lab: Lab) -> None:
    mounted = lab.mount()
    one_line(invoke("verify", mounted.path, "--state", mounted.state), 2, "not both")
    one_line(invoke("verify", "--state", lab.path / "missing"), 2, "missing")
    (lab.path / "foreign").mkdir()
    (lab.path / "foreign/thesis.tex").write_text("years of work")
    one_line(invoke("verify", "--state", lab.path / "foreign", "--repair"), 4, "foreign")
    assert os.listdir(lab.path / "foreign") == ["thesis.tex"]
    one_line(invoke("verify", lab.path), 1, lab.path)
