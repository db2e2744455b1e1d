"""Counting and evicting pages of ordinary files, without a mount."""

from __future__ import annotations

import os
from pathlib import Path

from blockstore.vm import resident
from blockstore.vm.evict import evict


def test_pages_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 4096)
    assert resident.of_file(path).resident == 1 << 20
    descriptor = os.open(path, os.O_RDONLY)
    try:
        assert resident.of_descriptor(descriptor).resident == resident._in_core_bytes(descriptor, 0, 0) == 1 << 20
        for offset, length, there in ((0, 8192, 8192), (1 << 19, 0, 1 << 19), ((1 << 20) - 4096, 1 << 20, 4096)):
            assert resident.of_descriptor(descriptor, offset, length).resident == there
            assert resident._in_core_bytes(descriptor, offset, length) == there
    finally:
        os.close(descriptor)


def test_an_empty_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert resident.of_file(tmp_path / "file") == resident.Residency(0, 0, 0)
    descriptor = os.open(tmp_path / "file", os.O_RDONLY)
    try:
        assert resident._in_core_bytes(descriptor, 0, 0) == 0
    finally:
        os.close(descriptor)


def test_evict_keeps_the_bytes(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 4096)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        before, after, _ = evict(descriptor, [])
    finally:
        os.close(descriptor)
    assert before == 1 << 20 and after == resident.of_file(path).resident
    assert path.read_bytes() == bytes(range(256)) * 4096
