"""Working sets: in the order of the looks, kept whole, and nothing where they are not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from blockstore.vm.snapshot import working_set
from blockstore.vm.snapshot.working_set import MAXIMUM_BLOCKS, MAXIMUM_RUNS, Run

RUNS = [Run(7, 2), Run(0, 1), Run(9, 1)]


def flags(text: str) -> bytes:
    return bytes(int(each) for each in text)


def test_what_came_first_stands_first() -> None:
    looks = [flags("0000000110"), flags("1000000000"), flags("1000000111")]
    assert working_set.in_order(looks) == RUNS
    assert working_set.in_order([]) == working_set.in_order([b"", flags("000")]) == []
    assert working_set.in_order([flags("111")]) == [Run(0, 3)]


def test_limits() -> None:
    assert working_set.in_order([b"\1" * (MAXIMUM_BLOCKS + 9)]) == [Run(0, MAXIMUM_BLOCKS)]
    assert working_set.in_order([b"\1" * 9, b"\1" * (MAXIMUM_BLOCKS + 9)]) == [Run(0, 9), Run(9, MAXIMUM_BLOCKS - 9)]
    scattered = working_set.in_order([b"\1\0" * (MAXIMUM_RUNS + 9)])
    assert len(scattered) == MAXIMUM_RUNS and scattered[-1] == Run(2 * MAXIMUM_RUNS - 2, 1)


def test_kept_and_removed(tmp_path: Path) -> None:
    assert working_set.load(tmp_path, 5) == []
    working_set.save(tmp_path, 5, RUNS)
    assert working_set.load(tmp_path, 5) == RUNS and working_set.load(tmp_path, 6) == []
    assert os.listdir(tmp_path) == [working_set.path_of(tmp_path, 5).name], "and no half of it"
    for _ in range(2):
        working_set.remove(tmp_path, 5)
        assert not os.listdir(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "longer", "changed", "empty", "huge", "folder"])
def test_a_damaged_one_is_none(tmp_path: Path, damage: str) -> None:
    path = working_set.path_of(tmp_path, 5)
    working_set.save(tmp_path, 5, RUNS)
    whole = path.read_bytes()
    path.unlink()
    if damage == "folder":
        path.mkdir()
    else:
        changed = whole[:-1] + bytes([whole[-1] ^ 1])
        contents = {
            "cut": whole[:-8],
            "longer": whole + bytes(8),
            "changed": changed,
            "empty": b"",
            "huge": whole * 999,
        }
        path.write_bytes(contents[damage])
    assert working_set.load(tmp_path, 5) == []


def test_the_oldest_goes(tmp_path: Path) -> None:
    for number in range(working_set.KEPT + 2):
        working_set.save(tmp_path, number, RUNS)
        os.utime(working_set.path_of(tmp_path, number), (number, number))
    working_set.save(tmp_path, 0, RUNS)
    left = [number for number in range(working_set.KEPT + 2) if working_set.load(tmp_path, number)]
    assert len(left) == working_set.KEPT and 0 in left and 1 not in left and 2 not in left


def test_a_state_that_cannot_be_written_to(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        working_set.save(tmp_path / "nothing", 5, RUNS)
