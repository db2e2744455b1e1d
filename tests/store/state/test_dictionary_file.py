"""The file of a dictionary: either copy mends the other, and none is taken for another domain's."""

from __future__ import annotations

import os
import random
from contextlib import closing
from pathlib import Path

import pytest

from blockstore.errors import OutOfRoom
from blockstore.store.state import dictionary_file
from blockstore.store.state.dictionary_file import (
    COPY_BYTES,
    FILE_BYTES,
    HEADER_BYTES,
    DictionaryFile,
    file_name,
    mend,
    place_of,
    read,
    write,
)
from blockstore.store.state.home import DirectoryHome, no_room_under

FILE = DictionaryFile(3, 20_000, random.Random(1).randbytes(50_000))
SEED = 77


def test_names() -> None:
    for place in ((0, 0), (7, 1), (65535, 0)):
        assert place_of(file_name(*place)) == place
    for name in (
        "dictionary-",
        "dictionary-0",
        "dictionary-0-2",
        "dictionary-00-1",
        "dictionary-x-1",
        "volume-1",
        "0-1",
    ):
        assert place_of(name) is None


def test_each_copy_mends_the_other(state_path: Path) -> None:
    chance = random.Random(2)
    with closing(DirectoryHome(state_path)) as home:
        fd = write(home, 5, 1, SEED, FILE)
        whole = os.pread(fd, FILE_BYTES, 0)
        for number in range(40):
            copy = number % 2
            place = chance.choice((0, 16, 30, 60, HEADER_BYTES, chance.randrange(HEADER_BYTES, HEADER_BYTES + 50_000)))
            os.pwrite(fd, bytes([whole[place] ^ 1 << chance.randrange(8)]), copy * COPY_BYTES + place)
            assert read(fd, 5, 1, SEED) == (FILE, [copy])
            mend(fd, 5, 1, SEED, FILE, [copy])
            assert read(fd, 5, 1, SEED) == (FILE, []) and os.pread(fd, FILE_BYTES, 0) == whole
        for copy in range(2):
            os.pwrite(fd, b"\0" * 64, copy * COPY_BYTES)
        assert read(fd, 5, 1, SEED) == (None, [0, 1])
        os.close(fd)


def test_of_another_place(state_path: Path) -> None:
    with closing(DirectoryHome(state_path)) as home:
        fd = write(home, 5, 1, SEED, FILE)
        for domain, slot, seed in ((4, 1, SEED), (5, 0, SEED), (5, 1, SEED + 1)):
            assert read(fd, domain, slot, seed) == (None, [0, 1])
        os.close(fd)


def test_without_room_nothing_is_left(state_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, start: int, length: int, place: str) -> None:
        raise OutOfRoom(no_room_under(place))

    with closing(DirectoryHome(state_path)) as home:
        with monkeypatch.context() as patch:
            patch.setattr(dictionary_file, "allocate", full)
            with pytest.raises(OutOfRoom):
                write(home, 5, 1, SEED, FILE)
        assert file_name(5, 1) not in home.names()
        os.close(write(home, 5, 1, SEED, FILE))
