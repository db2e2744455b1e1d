"""What tests leave open: a dozen descriptors for each store, of which a process may have a thousand (select(2))."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest

from blockstore.store.state.home import MemoryHome
from blockstore.store.store import Store


@pytest.fixture(autouse=True)
def closed_stores(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Close the stores that a test has opened, and files in memory that it has given to tables alone."""
    opened: list[Store] = []
    files: list[tuple[int, int]] = []
    initialise, open_file = Store.__init__, MemoryHome.open

    def remember(store: Store, *arguments: Any, **options: Any) -> None:
        initialise(store, *arguments, **options)
        opened.append(store)

    def remember_file(home: MemoryHome, name: str) -> int:
        descriptor = open_file(home, name)
        files.append((descriptor, os.fstat(descriptor).st_ino))
        return descriptor

    monkeypatch.setattr(Store, "__init__", remember)
    monkeypatch.setattr(MemoryHome, "open", remember_file)
    yield
    for store in opened:
        store.close()
    for descriptor, inode in files:
        if _inode_of(descriptor) == inode:
            os.close(descriptor)


def _inode_of(descriptor: int) -> int:
    """0 where it is closed; another one's where the number was used again."""
    try:
        return os.fstat(descriptor).st_ino
    except OSError:
        return 0
