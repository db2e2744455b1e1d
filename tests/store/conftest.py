"""Fixtures of the store's tests: a place in memory for state directories."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from suitelab.identity import WORKSPACE_PREFIX

from blockstore.store.store import Store
from tests.store.live import remembered_files as remembered_files


@pytest.fixture(autouse=True)
def _closed_stores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close what a test has opened: a dozen descriptors each, of which a process may have a thousand."""
    opened: list[Store] = []
    initialise = Store.__init__

    def remember(store: Store, *arguments: Any, **options: Any) -> None:
        initialise(store, *arguments, **options)
        opened.append(store)

    monkeypatch.setattr(Store, "__init__", remember)
    yield
    for store in opened:
        store.close()


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
