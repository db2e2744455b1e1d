"""Homes: a directory is held by one at a time, private, and its files come and go."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from blockstore.errors import BusyError, StateError
from blockstore.store.state.home import DirectoryHome, MemoryHome


def test_a_directory_is_held_once(state_path: Path) -> None:
    home = DirectoryHome(state_path)
    with pytest.raises(BusyError, match=str(state_path)) as raised:
        DirectoryHome(state_path)
    assert raised.value.exit_code == 3
    home.close()
    DirectoryHome(state_path).close()


def test_a_refused_second_home_leaks_no_descriptor(state_path: Path) -> None:
    home = DirectoryHome(state_path)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with pytest.raises(BusyError):
            DirectoryHome(state_path)
    assert len(os.listdir("/proc/self/fd")) == before
    home.close()


def test_the_lock_ends_with_the_process(state_path: Path) -> None:
    pid = os.fork()
    if not pid:
        DirectoryHome(state_path)
        os._exit(0)
    assert os.waitpid(pid, 0)[1] == 0
    DirectoryHome(state_path).close()


def test_modes(state_path: Path) -> None:
    home = DirectoryHome(state_path)
    os.close(home.open("file"))
    assert stat.S_IMODE(state_path.stat().st_mode) == 0o700
    for name in home.names():
        assert stat.S_IMODE((state_path / name).stat().st_mode) == 0o600
    home.close()


def test_files_come_and_go(state_path: Path) -> None:
    home = DirectoryHome(state_path)
    fd = home.open("file")
    os.write(fd, b"abc")
    os.close(fd)
    fd = home.open("file")
    assert os.read(fd, 3) == b"abc"
    os.close(fd)
    assert set(home.names()) == {"lock", "file"}
    home.remove("file")
    home.remove("file")
    assert set(home.names()) == {"lock"}
    assert home.describe() == str(state_path)
    home.close()


def test_a_path_that_cannot_be_a_directory(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for path in (file, file / "below"):
        with pytest.raises(StateError, match=str(path)):
            DirectoryHome(path)


def test_memory_has_no_names() -> None:
    home = MemoryHome()
    fd = home.open("file")
    os.write(fd, b"abc")
    os.close(fd)
    fd = home.open("file")
    assert os.fstat(fd).st_size == 0
    os.close(fd)
    home.remove("file")
    assert home.names() == []
