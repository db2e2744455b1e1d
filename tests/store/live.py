"""The files of a store that a test has open, found by the home that it was given.

A state directory is its path. The files of a store in memory have no names: those that it has open are remembered as
its home opens them.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import pytest

from blockstore.store.state.home import DirectoryHome, Home, MemoryHome
from blockstore.store.store import Store
from tests.store.places import Descriptors, Directory, Files

_homes: WeakKeyDictionary[Store, Home] = WeakKeyDictionary()
_descriptors: WeakKeyDictionary[MemoryHome, dict[str, int]] = WeakKeyDictionary()


@pytest.fixture(autouse=True)
def remembered_files(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Remember which stores are opened in which homes. A test file outside of tests/store imports it to have it."""
    initialise, open_file, remove = Store.__init__, MemoryHome.open, MemoryHome.remove

    def remember_home(store: Store, home: Home, *arguments: Any, **options: Any) -> None:
        _homes[store] = home
        initialise(store, home, *arguments, **options)

    def remember_file(home: MemoryHome, name: str) -> int:
        descriptor = open_file(home, name)
        _descriptors.setdefault(home, {})[name] = descriptor
        return descriptor

    def forget_file(home: MemoryHome, name: str) -> None:
        _descriptors.get(home, {}).pop(name, None)
        remove(home, name)

    monkeypatch.setattr(Store, "__init__", remember_home)
    monkeypatch.setattr(MemoryHome, "open", remember_file)
    monkeypatch.setattr(MemoryHome, "remove", forget_file)
    yield


def files_of(store: Store) -> Files:
    """Where the reader finds the state of an open store."""
    home = _homes[store]
    if isinstance(home, MemoryHome):
        return Descriptors(_descriptors[home])
    assert isinstance(home, DirectoryHome), "the files of this home cannot be read"
    return Directory(Path(home.describe()))
