"""Bytes of the pool that changed by themselves: whoever reads such a block gets EIO, and nobody wrong bytes."""

from __future__ import annotations

import errno
import mmap
import os
import re
import signal
from pathlib import Path

import pytest

from blockstore.store.state.geometry import BLOCK_BYTES
from blockstore.store.state.location import offset_of, size_of
from tests.cli.runner import invoke
from tests.daemon.lab import Mounted, cold, drop, ended, mixed_blocks, put, spawn

pytestmark = [pytest.mark.mount, pytest.mark.logs(r"block \d+ cannot be decoded: ")]


def flip(state: Path, row: int) -> None:
    """Change one byte in the middle of a row's record."""
    where = int.from_bytes((state / "rows-where").read_bytes()[8 * row : 8 * row + 8], "little")
    offset, size = offset_of(where), size_of(where)
    assert size
    with (state / "pool").open("r+b") as pool:
        pool.seek(offset + size // 2)
        byte = pool.read(1)
        pool.seek(offset + size // 2)
        pool.write(bytes([byte[0] ^ 0x10]))


def read_block(path: Path, number: int) -> bytes | int:
    """The block, or the errno with which reading it failed."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return os.pread(descriptor, BLOCK_BYTES, number * BLOCK_BYTES)
    except OSError as error:
        return error.errno or 0
    finally:
        os.close(descriptor)


def test_only_the_damaged_block_fails(mounted: Mounted) -> None:
    path = mounted.path / "memory"
    blocks = [os.urandom(64) * 64 for _ in range(64)]
    put(path, b"".join(blocks))
    drop(path)
    row = int.from_bytes((mounted.state / "volume-2").read_bytes()[4096 + 8 * 7 : 4096 + 8 * 7 + 4], "little")
    flip(mounted.state, row)
    found = [read_block(path, number) for number in range(len(blocks))]
    assert found[7] == errno.EIO
    assert found[:7] == blocks[:7] and found[8:] == blocks[8:]
    assert re.search(r" ERROR .*block \d+ cannot be decoded: ", mounted.log())

    descriptor = os.open(path, os.O_RDWR)
    os.pwrite(descriptor, blocks[7], 7 * BLOCK_BYTES)  # a new write of the same content is stored anew
    os.close(descriptor)
    assert cold(path) == b"".join(blocks)


def test_a_mapping_gets_a_signal_and_no_wrong_byte(mounted: Mounted) -> None:
    path = mounted.path / "memory"
    put(path, os.urandom(16 * BLOCK_BYTES))
    drop(path)
    row = int.from_bytes((mounted.state / "volume-2").read_bytes()[4096:4100], "little")
    flip(mounted.state, row)
    reader = spawn(
        "import mmap, os, sys; m = mmap.mmap(os.open(sys.argv[1], os.O_RDWR), 0); print(m[0], flush=True)", str(path)
    )
    assert ended(reader.pid) and reader.wait() == -signal.SIGBUS
    assert invoke("status", str(mounted.path)).returncode == 0
    assert mmap.PAGESIZE == BLOCK_BYTES


@pytest.mark.parametrize("turn", range(3))
def test_any_flipped_bytes_give_errors_or_the_right_content(mounted: Mounted, turn: int) -> None:
    """Every kind of block; a twentieth of the pool's bytes flipped at random places."""
    path = mounted.path / "memory"
    blocks = mixed_blocks(turn)
    put(path, b"".join(blocks))
    drop(path)
    rows = len((mounted.state / "rows-where").read_bytes()) // 8
    words = memoryview((mounted.state / "rows-where").read_bytes()).cast("Q")
    live = [row for row in range(2, rows) if words[row]]
    for row in live[turn::5]:
        flip(mounted.state, row)
    outcomes = [read_block(path, number) for number in range(len(blocks))]
    wrong = [number for number, found in enumerate(outcomes) if found not in (blocks[number], errno.EIO)]
    assert not wrong
    assert outcomes.count(errno.EIO) >= len(live) // 5
