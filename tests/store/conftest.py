"""Fixtures of the store's tests: a place in memory for state directories."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from suitelab.identity import WORKSPACE_PREFIX

from tests.store.live import remembered_files as remembered_files


@pytest.fixture
def state_path(tmp_path: Path) -> Iterator[Path]:
    """A path where a state directory may be made: on tmpfs where there is one, as in production."""
    shm = Path("/dev/shm")
    if not shm.is_dir():
        yield tmp_path / "state"
        return
    folder = Path(tempfile.mkdtemp(prefix=WORKSPACE_PREFIX, dir=shm))
    yield folder / "state"
    shutil.rmtree(folder)
