"""Counting and evicting pages of ordinary files, without a mount."""

from __future__ import annotations

import os
from pathlib import Path

from blockstore.vm import resident
from blockstore.vm.memory.evict import evict
from tests.daemon.lab import until
from tests.vm.kept_pages import kept


def test_pages_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 4096)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with kept(path):
            assert resident.of_file(path).resident == 1 << 20
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

        def all_was_there() -> bool:
            path.read_bytes()
            before, after, _ = evict(descriptor, [])
            assert after == resident.of_file(path).resident
            return before == 1 << 20

        until(all_was_there, "the kernel takes no page before")
    finally:
        os.close(descriptor)
    assert path.read_bytes() == bytes(range(256)) * 4096
