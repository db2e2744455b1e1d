"""When a domain gets a dictionary, and when another one: before its blocks are encoded, and from what they are."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from blockstore.errors import OutOfRoom
from blockstore.store.moves import training
from blockstore.store.moves.recompression import Recompression
from blockstore.store.state import dictionary_file
from blockstore.store.state.geometry import (
    BLOCK_BYTES,
    COMPRESSED,
    DENSE,
    DENSE_FIRST,
    DENSE_PATCHED,
    DENSE_SECOND,
)
from blockstore.store.state.home import MemoryHome
from blockstore.store.steps import run
from blockstore.store.store import Store
from tests.store.invariants import check_store
from tests.store.material import contents, encodings, noise, put, text

LIMIT_BYTES = 64 << 20
FEW = 240
BLOCKS = 200
"""From which a domain gets a dictionary here."""


@pytest.fixture(autouse=True)
def _small_domains(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "TRAIN_FROM_BLOCKS", BLOCKS)
    monkeypatch.setattr(training, "SAMPLE_BLOCKS", 100)
    monkeypatch.setattr(training, "CHECK_BLOCKS", 10)


@pytest.fixture
def store() -> Iterator[Store]:
    with closing(Store(MemoryHome(), LIMIT_BYTES)) as store:
        yield store


def texts(first: int, end: int) -> bytes:
    return b"".join(map(text, range(first, end)))


def apart(count: int) -> bytes:
    """Blocks that have nothing in common, and get a little smaller."""
    return b"".join(noise(seed)[:3000] + bytes([seed & 0xFF]) * (BLOCK_BYTES - 3000) for seed in range(count))


def look(store: Store, *, hard: bool = False) -> None:
    """A pass over everything, in which a dictionary that is due is made first."""
    recompression = store.recompression
    recompression.begin_all(hard=hard)
    while recompression.step(store.lock) is not None:
        pass


def test_it_is_there_before_blocks_are_encoded(store: Store) -> None:
    data = texts(0, FEW)
    put(store, store.create_volume(1, 1), 0, data)
    look(store)
    found = encodings(store)
    assert store.training.saved_share > 0.1
    assert store.training.trained == 1 and not found.keys() & {COMPRESSED, DENSE}
    assert found[DENSE_FIRST] > FEW / 2 and found.keys() <= {DENSE_FIRST, DENSE_PATCHED}
    assert contents(store, store.volumes[1]) == data
    check_store(store, decode=True)
    assert store.dictionaries.size_bytes == dictionary_file.FILE_BYTES < store.table_bytes
    verified_bytes = store.record_bytes
    look(store, hard=True)
    assert store.record_bytes < verified_bytes and store.training.trained == 1
    assert contents(store, store.volumes[1]) == data
    check_store(store, decode=True)


def test_few_blocks_get_none(store: Store) -> None:
    put(store, store.create_volume(1, 1), 0, texts(0, BLOCKS - 1))
    look(store)
    assert not store.training.trained and not store.dictionaries.size_bytes
    assert not encodings(store).keys() & {DENSE_FIRST, DENSE_SECOND}


def test_each_domain_has_its_own(store: Store) -> None:
    put(store, store.create_volume(1, 1), 0, texts(0, FEW))
    put(store, store.create_volume(2, 2), 0, texts(0, BLOCKS // 2))
    look(store)
    assert store.training.trained == 1
    put(store, store.volumes[2], 0, texts(0, FEW))
    look(store)
    assert store.training.trained == 2
    first, second = (store.tables.dictionary(store.volumes[number].domain.index, 0) for number in (1, 2))
    assert first is not None and second is not None and first is not second
    check_store(store, decode=True)
    run(store.delete_steps(store.volumes[1]))
    assert store.dictionaries.size_bytes == dictionary_file.FILE_BYTES
    assert contents(store, store.volumes[2]) == texts(0, FEW)
    check_store(store, decode=True)


def test_what_has_nothing_in_common_gets_none(store: Store) -> None:
    volume = store.create_volume(1, 1)
    put(store, volume, 0, apart(FEW))
    look(store)
    assert not store.training.trained and store.training._tried == {1: FEW}
    assert 0 <= store.training.saved_share < 0.015
    put(store, volume, 0, apart(FEW + 10))
    look(store)
    assert store.training._tried == {1: FEW}, "not tried again for a few more"
    put(store, volume, 0, apart(3 * FEW))
    look(store)
    assert store.training._tried == {1: 3 * FEW} and not store.training.trained


def test_another_one_when_the_domain_has_grown(store: Store) -> None:
    """Blocks move to it at their second look; then the first slot is free for a third."""
    volume, data = store.create_volume(1, 1), texts(0, FEW)
    put(store, volume, 0, data)
    look(store)
    data += texts(20_000, 20_000 + 5 * FEW)
    put(store, volume, 0, data)
    look(store)
    assert store.training.trained == 2 and encodings(store)[DENSE_SECOND] > FEW
    assert store.dictionaries.size_bytes == 2 * dictionary_file.FILE_BYTES
    left = encodings(store).get(DENSE_FIRST, 0)
    look(store, hard=True)
    assert encodings(store).get(DENSE_FIRST, 0) < left / 2
    assert contents(store, volume) == data
    check_store(store, decode=True)
    run(store.discard_steps(volume, 0, FEW * BLOCK_BYTES))
    assert DENSE_FIRST not in encodings(store)
    data = bytes(FEW * BLOCK_BYTES) + data[FEW * BLOCK_BYTES :] + texts(40_000, 40_000 + 24 * FEW)
    put(store, volume, 0, data)
    look(store)
    assert store.training.trained == 3 and encodings(store)[DENSE_FIRST] > FEW
    assert contents(store, volume) == data
    check_store(store, decode=True)


def test_a_slot_that_is_needed_is_kept(store: Store) -> None:
    volume, data = store.create_volume(1, 1), texts(0, FEW)
    for times in (0, 1):
        data += texts(20_000 * times, 20_000 * times + 6 * FEW)
        put(store, volume, 0, data)
        look(store)
    before = store.training.trained
    kept = [store.tables.dictionary(0, slot) for slot in range(2)]
    put(store, volume, 0, data + texts(90_000, 90_000 + 30 * FEW))
    rows = store.dictionaries.count_rows()
    if rows[DENSE_FIRST] and rows[DENSE_SECOND]:
        assert store.dictionaries.spare_slot(0, rows) is None
        look(store)
        assert store.training.trained == before
        assert [store.tables.dictionary(0, slot) for slot in range(2)] == kept


def test_recompression_waits_for_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the daemon drives it: the thread makes it, and blocks are left alone meanwhile."""
    put(store, store.create_volume(1, 1), 0, texts(0, 6 * FEW))
    recompression: Recompression = store.recompression
    with store.lock:
        assert recompression.begin(0.0, 0.0), "a segment is full"
    while recompression._training._counts is not None:
        recompression._training.step(store.lock, wait=False)
    assert store.training.is_under_way(store.training._since_s) or store.training.trained
    assert not store.training.is_under_way(store.training._since_s + training.PATIENCE_S)
    thread = store.training._thread
    assert thread is not None
    thread.join()
    assert store.training.trained == 1
    with store.lock:
        assert recompression.begin(0.0, 0.0)
    while recompression.step(store.lock) is not None:
        pass
    assert encodings(store)[DENSE_FIRST] > FEW
    check_store(store, decode=True)


def test_without_room_there_is_none(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, start: int, length: int, place: str) -> None:
        raise OutOfRoom("the file system is full")

    put(store, store.create_volume(1, 1), 0, texts(0, FEW))
    with monkeypatch.context() as patch:
        patch.setattr(dictionary_file, "allocate", full)
        look(store)
    assert not store.dictionaries.size_bytes and encodings(store)[DENSE] > FEW / 2
    put(store, store.volumes[1], FEW * BLOCK_BYTES, texts(FEW, 3 * FEW))
    look(store)
    assert store.training.trained == 1
    check_store(store, decode=True)
