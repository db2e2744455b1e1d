"""The dictionaries of a state: what a start makes of them when they are damaged, missing, or left over."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from blockstore.errors import CorruptBlock, StateError
from blockstore.store.checks.verify import Verification, steps
from blockstore.store.moves import training
from blockstore.store.state.dictionary_file import COPY_BYTES
from blockstore.store.state.geometry import (
    BLOCK_BYTES,
    DENSE,
    DENSE_FIRST,
    DENSE_SECOND,
    DICTIONARY_VERSION,
    ENCODING_MASK,
    FORMAT_VERSION,
)
from blockstore.store.state.home import CopiedHome, DirectoryHome
from blockstore.store.state.superblock import read_version
from blockstore.store.steps import run
from blockstore.store.store import Store
from tests.store.invariants import check_store
from tests.store.material import contents, densify, encodings, put, text

LIMIT_BYTES = 32 << 20
NAME = "dictionary-0-0"
COUNT = 120
DATA = b"".join(map(text, range(COUNT)))


@pytest.fixture(autouse=True)
def _small_domains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "TRAIN_FROM_BLOCKS", 100)


@pytest.fixture
def state(state_path: Path) -> Iterator[Path]:
    """With a volume whose blocks need a dictionary, and one of another domain whose blocks need none."""
    with closing(open_store(state_path)) as store:
        put(store, store.create_volume(1, 1), 0, DATA)
        put(store, store.create_volume(2, 2), 0, text(5000) + text(5001))
        store.recompression.begin_all()
        while store.recompression.step(store.lock) is not None:
            pass
        assert encodings(store)[DENSE_FIRST] > COUNT / 2
    yield state_path


def open_store(path: Path, *, mend: bool = False) -> Store:
    return Store(DirectoryHome(path), LIMIT_BYTES, mend=mend)


def damage(state: Path, copies: tuple[int, ...]) -> None:
    for copy in copies:
        with (state / NAME).open("r+b") as file:
            file.seek(copy * COPY_BYTES + 5000)
            byte = file.read(1)[0]
            file.seek(copy * COPY_BYTES + 5000)
            file.write(bytes([byte ^ 4]))


def findings(store: Store, *, repair: bool = False) -> list[tuple[str, bool]]:
    """Of the kind that tells of dictionaries: text, and whether it is repaired."""
    result = Verification()
    run(steps(store, result, repair=repair))
    return [(finding.text, finding.repaired) for finding in result.findings if finding.kind == "dictionary"]


def test_the_version_is_raised_by_the_first(state_path: Path) -> None:
    with closing(open_store(state_path)) as store:
        put(store, store.create_volume(1, 1), 0, DATA)
        densify(store)
        with closing(DirectoryHome(state_path.with_name("other"))):
            assert read_version(store._home) == FORMAT_VERSION
        store.recompression.begin_all()
        while store.recompression.step(store.lock) is not None:
            pass
        assert read_version(store._home) == DICTIONARY_VERSION
    with closing(open_store(state_path)) as store:
        assert contents(store, store.volumes[1]) == DATA
        check_store(store, decode=True)


def test_it_is_read_and_used_after_a_start(state: Path) -> None:
    with closing(open_store(state)) as store:
        assert contents(store, store.volumes[1]) == DATA and not findings(store)
        put(store, store.volumes[1], 0, DATA + text(900))
        store.recompression.begin_all()
        before = encodings(store)[DENSE_FIRST]
        while store.recompression.step(store.lock) is not None:
            pass
        assert not store.training.trained and encodings(store)[DENSE_FIRST] > before
        check_store(store, decode=True)


@pytest.mark.parametrize("copy", (0, 1))
def test_a_damaged_copy_is_made_anew(state: Path, copy: int, caplog: pytest.LogCaptureFixture) -> None:
    whole = (state / NAME).read_bytes()
    damage(state, (copy,))
    home = CopiedHome(DirectoryHome(state))
    with closing(Store(home, LIMIT_BYTES, look=True)) as store:
        assert findings(store) == [(f"1 of the two copies of {NAME} are damaged", False)]
    assert (state / NAME).read_bytes() != whole, "a look changes nothing"
    with closing(open_store(state)) as store:
        assert contents(store, store.volumes[1]) == DATA and not findings(store)
    assert (state / NAME).read_bytes() == whole
    assert re.search(f"a copy of {NAME} .*was made anew", caplog.text)


def test_both_copies_damaged(state: Path) -> None:
    """Those blocks cannot be read, all others can; verify tells, and its repair makes the rest usable."""
    damage(state, (0, 1))
    with closing(open_store(state)) as store:
        with pytest.raises(CorruptBlock, match=f"{NAME}, with which it was encoded, is damaged"):
            for block in range(COUNT):
                store.read(store.volumes[1], block * BLOCK_BYTES, BLOCK_BYTES)
        assert contents(store, store.volumes[2]) == text(5000) + text(5001)
        assert findings(store) == [
            (f"both copies of {NAME} are damaged: blocks that were encoded with it cannot be read", False)
        ]
    with closing(open_store(state, mend=True)) as store:  # as a daemon does that takes over: somebody may have a copy
        assert not store.lost_blocks and (state / NAME).exists()
    with closing(Store(DirectoryHome(state), LIMIT_BYTES, mend=True, give_up=True)) as store:
        assert store.lost_blocks > COUNT / 2
    assert not (state / NAME).exists()
    with closing(open_store(state)) as store:
        assert contents(store, store.volumes[2]) == text(5000) + text(5001)
        run(store.discard_steps(store.volumes[1], 0, COUNT * BLOCK_BYTES))
        check_store(store, decode=True)


def test_damaged_while_it_is_used(state: Path) -> None:
    """What is in memory is whole: verify tells, and writes both copies anew."""
    whole = (state / NAME).read_bytes()
    with closing(open_store(state)) as store:
        damage(state, (0, 1))
        assert contents_of(store) == DATA
        assert len(findings(store)) == 1
        assert findings(store, repair=True) == [(f"2 of the two copies of {NAME} are damaged", True)]
        assert not findings(store) and (state / NAME).read_bytes() == whole


def contents_of(store: Store) -> bytes:
    return store.read(store.volumes[1], 0, len(DATA))


def test_a_missing_one(state: Path) -> None:
    os.unlink(state / NAME)
    home = DirectoryHome(state)
    with closing(home), pytest.raises(StateError) as raised:
        Store(home, LIMIT_BYTES)
    message = str(raised.value)
    assert re.search(
        rf"{state} is damaged: {NAME} is missing, and \d+ blocks cannot be read without it; put it", message
    )
    assert "\n" not in message and "--repair" in message
    with closing(Store(CopiedHome(DirectoryHome(state)), LIMIT_BYTES, look=True)) as store:
        assert findings(store)[0][0].startswith(f"{NAME} is missing")
    with closing(open_store(state, mend=True)) as store:
        assert store.lost_blocks > COUNT / 2
    open_store(state).close()


@pytest.mark.parametrize("content", (b"", b"x" * 5000))
def test_what_a_killed_training_left_is_removed(state: Path, content: bytes) -> None:
    for name in ("dictionary-0-1", "dictionary-1-0", "dictionary-9-0"):
        (state / name).write_bytes(content)
    with closing(open_store(state)) as store:
        assert contents(store, store.volumes[1]) == DATA
    assert sorted(path.name for path in state.glob("dictionary-*")) == [NAME]


def test_it_goes_with_its_domain(state: Path) -> None:
    with closing(open_store(state)) as store:
        run(store.delete_steps(store.volumes[1]))
        assert not (state / NAME).exists() and not store.dictionaries.size_bytes
        assert store.tables.dictionary(0, 0) is None
        put(store, store.create_volume(3, 3), 0, DATA)  # has its index
        densify(store)
        assert DENSE_FIRST not in encodings(store)
        check_store(store, decode=True)
    with closing(open_store(state)) as store:
        assert contents(store, store.volumes[3]) == DATA


@pytest.mark.parametrize("becomes", (DENSE_FIRST, DENSE_SECOND))
def test_an_encoding_with_a_flipped_bit(state: Path, becomes: int) -> None:
    """Of a block of the domain without a dictionary, and of the other: never other bytes, and mended."""
    with closing(open_store(state)) as store:
        items = store.rows.where.items
        for row in range(len(items)):
            was = items[row]
            if not was or (was & ENCODING_MASK ^ becomes).bit_count() != 1:
                continue
            items[row] = was & ~ENCODING_MASK | becomes
            for number, expected in ((1, DATA), (2, text(5000) + text(5001))):
                for block in range(len(expected) // BLOCK_BYTES):
                    try:
                        found = store.read(store.volumes[number], block * BLOCK_BYTES, BLOCK_BYTES)
                    except CorruptBlock:
                        continue
                    assert found == expected[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES]
            run(steps(store, Verification(), repair=True))
            assert items[row] == was
        assert DENSE in encodings(store)
        check_store(store, decode=True)
