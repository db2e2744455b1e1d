"""What the kernel is told, without a mount: also when what serves names fails, an error for that request alone."""

from __future__ import annotations

import errno
import os
import sqlite3
import stat
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyfuse3
import pytest
import trio

from blockstore.daemon.lane.stepper import Stepper
from blockstore.daemon.namespace.names import Names
from blockstore.daemon.namespace.operations import Operations
from blockstore.store.state.home import MemoryHome
from blockstore.store.steps import NotHere, run
from blockstore.store.store import Store
from blockstore.store.tiers import PieceMissing, TierAway


@pytest.fixture
def names(tmp_path: Path) -> Iterator[Names]:
    made = Names(tmp_path / "names.sqlite", 0, 0)
    yield made
    made.close()


@pytest.fixture
def operations(names: Names) -> Operations:
    """Over a store in memory, without a mount."""
    store = Store(MemoryHome(), 16 << 20)
    store_lock = store.lock
    return Operations(
        names, store, store_lock, Stepper(store, store_lock), lambda: 1 << 20, lambda inode: False, lambda inode: False
    )


@pytest.fixture
def broken(names: Names, operations: Operations) -> Operations:
    """Over names whose database is closed."""
    names.close()
    with pytest.raises(sqlite3.ProgrammingError):
        names.count()
    return operations


@dataclass
class Context:
    """Who asks."""

    uid: int
    gid: int = 0
    pid: int = 0
    umask: int = 0


ROOT = pyfuse3.ROOT_INODE
REQUESTS: dict[str, Callable[[Operations], Awaitable[object]]] = {
    "lookup": lambda operations: operations.lookup(ROOT, pyfuse3.FileNameT(b"x"), None),  # type: ignore[arg-type]
    "getattr": lambda operations: operations.getattr(ROOT, None),  # type: ignore[arg-type]
    "release": lambda operations: operations.release(pyfuse3.FileHandleT(1)),
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


@pytest.mark.parametrize(
    ("uid", "mode", "left"),
    ((1000, 0o6777, 0o777), (1000, 0o2777, 0o777), (1000, 0o2767, 0o2767), (0, 0o6777, 0o6777)),
)
def test_a_user_who_empties_a_file_takes_its_set_id_bits(
    names: Names, operations: Operations, uid: int, mode: int, left: int
) -> None:
    """As the kernel does it at write(2) and truncate(2); O_TRUNC it leaves to the daemon."""
    context = Context(uid)

    async def empty() -> None:
        _, made = await operations.create(ROOT, pyfuse3.FileNameT(b"x"), mode, os.O_RDWR, Context(0))  # type: ignore[arg-type]
        await operations.open(made.st_ino, os.O_WRONLY, context)  # type: ignore[arg-type]
        assert stat.S_IMODE(names.get(made.st_ino).mode) == mode
        await operations.open(made.st_ino, os.O_WRONLY | os.O_TRUNC, context)  # type: ignore[arg-type]
        assert stat.S_IMODE(names.get(made.st_ino).mode) == left

    trio.run(empty)


def test_what_lost_its_memory_before_a_daemon_was_killed_is_forgotten(names: Names, operations: Operations) -> None:
    """And so is what had none, a directory and a link."""

    async def make_and_remove() -> None:
        context: Any = Context(0)
        _, made = await operations.create(ROOT, pyfuse3.FileNameT(b"x"), 0o644, os.O_RDWR, context)
        await operations.mkdir(ROOT, pyfuse3.FileNameT(b"y"), pyfuse3.ModeT(0o755), context)
        await operations.symlink(ROOT, pyfuse3.FileNameT(b"z"), pyfuse3.FileNameT(b"x"), context)
        await operations.unlink(ROOT, pyfuse3.FileNameT(b"x"), context)
        await operations.rmdir(ROOT, pyfuse3.FileNameT(b"y"), context)
        await operations.unlink(ROOT, pyfuse3.FileNameT(b"z"), context)
        run(operations._store.delete_steps(operations._store.volumes[made.st_ino]))
        assert len(names.nameless()) == 3
        await operations.drop_unused()

    trio.run(make_and_remove)
    assert names.nameless() == [] and names.count() == 1


@pytest.mark.parametrize("signal", (NotHere(), TierAway("away"), PieceMissing("missing")))
def test_a_signal_that_nobody_acts_on_is_logged_with_its_traceback(
    operations: Operations, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, signal: Exception
) -> None:
    def read(*arguments: object) -> None:
        raise signal

    async def ask() -> None:
        _, made = await operations.create(ROOT, pyfuse3.FileNameT(b"x"), 0o644, os.O_RDWR, Context(0))  # type: ignore[arg-type]
        monkeypatch.setattr(Operations, "_volume", read)
        await operations.getattr(made.st_ino, None)  # type: ignore[arg-type]

    with pytest.raises(pyfuse3.FUSEError) as raised:
        trio.run(ask)
    assert raised.value.errno == errno.EIO
    (record,) = caplog.records
    assert record.levelname == "ERROR" and record.exc_info
