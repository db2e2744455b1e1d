"""The table of segments grows without forgetting, and what a raised limit adds is new to all who use it."""

from __future__ import annotations

from array import array

from blockstore.store.state.home import MemoryHome
from blockstore.store.state.segments import Segments
from blockstore.store.store import Store
from tests.store.material import contents, put, text


def columns(segments: Segments) -> dict[str, array[int] | array[float]]:
    return {name: value for name, value in vars(segments).items() if isinstance(value, array)}


def test_growing_keeps_what_was_there() -> None:
    segments, fresh = Segments(3), columns(Segments(1))
    assert len(fresh) == 9
    for column in columns(segments).values():
        for segment in range(3):
            column[segment] = 1
    segments.grow(5)
    assert segments.count == 5
    for name, column in columns(segments).items():
        assert column.tolist() == [1, 1, 1, *(2 * fresh[name].tolist())], name
        assert column.typecode == fresh[name].typecode


def test_growing_leaves_what_compiled_code_looks_at() -> None:
    segments = Segments(3)
    with memoryview(segments.live_bytes):
        segments.grow(5)
    assert len(segments.live_bytes) == 5


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
