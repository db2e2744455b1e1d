"""The table of segments grows without forgetting, and what a raised limit adds is new to all who use it."""

from __future__ import annotations

from array import array

import pytest

from blockstore.store.state import segments
from blockstore.store.state.geometry import BLOCK_BYTES
from blockstore.store.state.home import MemoryHome
from blockstore.store.state.segments import Segments
from blockstore.store.store import Store
from tests.store.invariants import check_store
from tests.store.material import contents, noise, put, text


def columns(table: Segments) -> dict[str, array[int] | array[float]]:
    return {name: value for name, value in vars(table).items() if isinstance(value, array)}


def test_growing_keeps_what_was_there() -> None:
    table, fresh = Segments(3), columns(Segments(1))
    assert len(fresh) == 9
    for column in columns(table).values():
        for segment in range(3):
            column[segment] = 1
    table.grow(5)
    assert table.count == 5
    for name, column in columns(table).items():
        assert column.tolist() == [1, 1, 1, *(2 * fresh[name].tolist())], name
        assert column.typecode == fresh[name].typecode


def test_growing_leaves_what_compiled_code_looks_at() -> None:
    table = Segments(3)
    with memoryview(table.live_bytes):
        table.grow(5)
    assert len(table.live_bytes) == 5


def test_a_limit_that_is_raised_in_the_middle_of_a_pass() -> None:
    store = Store(MemoryHome(), 64 << 20)
    volume = store.create_volume(1, 1)
    put(store, volume, 0, b"".join(map(text, range(600))))
    expected = contents(store, volume)
    store.densify.begin_all()
    assert store.densify.step()
    store.set_pool_limit(128 << 20)
    while store.densify.step():
        pass
    assert store.densify.replaced > 500 and contents(store, volume) == expected
    assert not store.densify.begin(0.0, 1.0) and store.pool.segments.count == 128


def test_without_memory_a_table_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some columns that are longer than others, or one that the log does not count in, would lose records."""
    store = Store(MemoryHome(), 32 << 20)
    volume, number = store.create_volume(1, 1), 0

    def fail(count: int, initial: int = 0) -> array[int]:
        nonlocal number
        number += 1
        if number == 3:
            raise MemoryError
        return array("q", [initial]) * count

    put(store, volume, 0, noise(1))
    before = columns(store.pool.segments)
    with monkeypatch.context() as patch:
        patch.setattr(segments, "_numbers", fail)
        with pytest.raises(MemoryError):
            store.set_pool_limit(64 << 20)
    assert all(column is before[name] for name, column in columns(store.pool.segments).items())
    put(store, volume, BLOCK_BYTES, noise(2))
    assert sum(store.pool.segments.live_bytes) == store.record_bytes == 2 * BLOCK_BYTES
    store.set_pool_limit(64 << 20)
    put(store, volume, 2 * BLOCK_BYTES, noise(3))
    assert sum(store.pool.segments.live_bytes) == store.record_bytes == 3 * BLOCK_BYTES
    check_store(store, decode=True)
