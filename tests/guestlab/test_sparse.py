"""sparse: holes stay holes, what is written is copied, and a failed copy leaves what was there."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from guestlab.errors import GuestLabError
from guestlab.sparse import BLOCK_BYTES, copy_sparse, nonzero_bytes

SIZE = 64 << 20
DATA = bytes(range(256)) * 16
#: Offset to blocks: two alone, zeros that are written out, an extent longer than one chunk, the last block.
WRITTEN = {
    0: DATA,
    7 * BLOCK_BYTES: bytes(3 * BLOCK_BYTES),
    9 << 20: DATA * 700,
    SIZE - BLOCK_BYTES: DATA,
}
WRITTEN_BYTES = sum(map(len, WRITTEN.values()))


@pytest.fixture
def source(memory_folder: Path) -> Path:
    path = memory_folder / "source.ram"
    with path.open("wb") as file:
        file.truncate(SIZE)
        for offset, data in WRITTEN.items():
            file.seek(offset)
            file.write(data)
    return path


def test_copy_is_equal_and_keeps_holes(source: Path, memory_folder: Path) -> None:
    target = memory_folder / "target.ram"
    assert copy_sparse(source, target) == WRITTEN_BYTES
    assert target.read_bytes() == source.read_bytes()
    assert target.stat().st_blocks * 512 == WRITTEN_BYTES
    assert sorted(path.name for path in memory_folder.iterdir()) == ["source.ram", "target.ram"]


def test_written_zeros_are_touched_but_zero(source: Path) -> None:
    assert nonzero_bytes(source) == WRITTEN_BYTES - 3 * BLOCK_BYTES


@pytest.mark.parametrize("size", [0, BLOCK_BYTES, 5 << 20])
def test_file_of_nothing_but_holes(memory_folder: Path, size: int) -> None:
    source, target = memory_folder / "holes", memory_folder / "holes-copied"
    with source.open("wb") as file:
        file.truncate(size)
    assert copy_sparse(source, target) == 0
    assert target.stat().st_size == size
    assert target.stat().st_blocks == 0
    assert nonzero_bytes(target) == 0


def test_failed_copy_leaves_the_old_file(source: Path, memory_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = memory_folder / "kept.ram"
    target.write_bytes(b"what was there")
    writes = 0

    def full_disk(descriptor: int, data: bytes, offset: int) -> int:
        nonlocal writes
        writes += 1
        if writes > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return len(data)

    before = set(memory_folder.iterdir())
    monkeypatch.setattr(os, "pwrite", full_disk)
    with pytest.raises(GuestLabError, match="No space left"):
        copy_sparse(source, target)
    assert writes == 3
    assert target.read_bytes() == b"what was there"
    assert set(memory_folder.iterdir()) == before


def test_missing_source(memory_folder: Path) -> None:
    before = set(memory_folder.iterdir())
    with pytest.raises(GuestLabError, match="No such file"):
        copy_sparse(memory_folder / "absent", memory_folder / "target-of-absent")
    assert set(memory_folder.iterdir()) == before
