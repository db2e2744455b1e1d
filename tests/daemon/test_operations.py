"""What the kernel is told when what serves names fails: an error for that request, and the mount goes on."""

from __future__ import annotations

import errno
import sqlite3
from collections.abc import Awaitable, Callable
from pathlib import Path

import pyfuse3
import pytest
import trio

from blockstore.daemon.door import Door
from blockstore.daemon.names import Names
from blockstore.daemon.operations import Operations
from blockstore.daemon.stepper import Stepper
from blockstore.store.home import MemoryHome
from blockstore.store.store import Store


@pytest.fixture
def broken(tmp_path: Path) -> Operations:
    """Over names whose database is closed."""
    store, door = Store(MemoryHome(), 16 << 20), Door()
    names = Names(tmp_path / "names.sqlite", 0, 0)
    operations = Operations(
        names, store, door, Stepper(store, door), lambda: 1 << 20, lambda inode: False, lambda inode: False
    )
    names.close()
    with pytest.raises(sqlite3.ProgrammingError):
        names.count()
    return operations


ROOT = pyfuse3.ROOT_INODE
REQUESTS: dict[str, Callable[[Operations], Awaitable[object]]] = {
    "lookup": lambda operations: operations.lookup(ROOT, pyfuse3.FileNameT(b"x"), None),  # type: ignore[arg-type]
    "getattr": lambda operations: operations.getattr(ROOT, None),  # type: ignore[arg-type]
    "release": lambda operations: operations.release(pyfuse3.FileHandleT(1)),
    "read": lambda operations: operations.read(pyfuse3.FileHandleT(1), 0, 1),
    "write": lambda operations: operations.write(pyfuse3.FileHandleT(1), 0, b"x"),
    "readdir": lambda operations: operations.readdir(pyfuse3.FileHandleT(ROOT), 0, None),  # type: ignore[arg-type]
    "statfs": lambda operations: operations.statfs(None),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_that_fails_is_an_error_for_it_alone(broken: Operations, name: str) -> None:
    """Anything else ends the daemon, the next one is asked the same, and so on for ever."""

    async def ask() -> None:
        await REQUESTS[name](broken)

    with pytest.raises(pyfuse3.FUSEError) as raised:
        trio.run(ask)
    assert raised.value.errno == errno.EIO


def test_a_forget_that_fails_is_logged(broken: Operations, caplog: pytest.LogCaptureFixture) -> None:
    trio.run(broken.forget, [(pyfuse3.InodeT(7), 1)])
    assert "a request failed" in caplog.text
