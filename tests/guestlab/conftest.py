"""Fixtures of the guest lab's tests: a folder in memory, where holes of files are holes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def memory_folder() -> Iterator[Path]:
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="guestlab-test-", dir=shm if shm.is_dir() else None) as folder:
        yield Path(folder)
