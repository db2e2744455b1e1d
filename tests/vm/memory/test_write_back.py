"""Dirty pages are in the store within a round, without anybody's fsync."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest

from blockstore.vm import resident
from blockstore.vm.memory.write_back import PIECE_BYTES, ROUND_S, WriteBack
from tests.daemon.lab import Lab, noisy, until
from tests.vm.kept_pages import kept

SIZE_BYTES = 5 * PIECE_BYTES + 12288
ENOUGH_S = 600.0


def is_written(work: WriteBack, descriptor: int, elapsed_s: float = ROUND_S) -> bool:
    """After another round; one ends early when a piece takes long."""
    work.go_on(elapsed_s, ENOUGH_S)
    found = resident.of_descriptor(descriptor)
    return not found.dirty and not found.written_back


@pytest.mark.mount
def test_one_round_writes_all(lab: Lab) -> None:
    path = lab.mount().path / "memory"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    os.ftruncate(descriptor, SIZE_BYTES)
    mapping = mmap.mmap(descriptor, SIZE_BYTES)
    mapping[:] = noisy(SIZE_BYTES, 1)
    assert resident.of_descriptor(descriptor).dirty == SIZE_BYTES
    work = WriteBack(descriptor)
    with kept(path):
        work.go_on(ROUND_S / 100, ENOUGH_S)
        left = resident.of_descriptor(descriptor).dirty
        assert 0 < left < SIZE_BYTES, "a little at a time"
        until(lambda: is_written(work, descriptor), "all")
        assert resident.of_descriptor(descriptor).resident == SIZE_BYTES
    mapping[-1] ^= 1
    until(lambda: is_written(work, descriptor), "all")
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    mapping.madvise(mmap.MADV_DONTNEED)
    wanted = bytearray(noisy(SIZE_BYTES, 1))
    wanted[-1] ^= 1
    assert mapping[:] == wanted


@pytest.mark.mount
def test_what_there_was_no_time_for_is_done_later(lab: Lab) -> None:
    path = lab.mount().path / "memory"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    os.ftruncate(descriptor, SIZE_BYTES)
    mapping = mmap.mmap(descriptor, SIZE_BYTES)
    mapping[:] = noisy(SIZE_BYTES, 1)
    work = WriteBack(descriptor)
    with kept(path):
        work.go_on(ROUND_S, -1.0)
        until(lambda: is_written(work, descriptor, elapsed_s=0.0), "all that was due")
    os.close(descriptor)


def test_a_piece_that_is_not_done_in_time_holds_up_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []

    def write(work: WriteBack, start: int) -> bool:
        seen.append(start // PIECE_BYTES)
        return start != PIECE_BYTES

    monkeypatch.setattr(WriteBack, "_write", write)
    with (tmp_path / "memory").open("w+b") as file:
        file.truncate(4 * PIECE_BYTES)
        work = WriteBack(file.fileno())
        for _ in range(3):
            work.go_on(ROUND_S, ENOUGH_S)
    assert seen[:6] == [0, 1, 2, 3, 0, 1], "its turn comes again"


def test_an_empty_file(tmp_path: Path) -> None:
    with (tmp_path / "memory").open("w+b") as file:
        WriteBack(file.fileno()).go_on(1.0, ENOUGH_S)
        assert resident.of_descriptor(file.fileno()) == resident.Residency(0, 0, 0)
