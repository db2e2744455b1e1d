"""The content index: every live row can be found from its digest, whatever was entered and rebuilt."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from blockstore.store.content_index import MAXIMUM_LOAD, ContentIndex
from blockstore.store.geometry import COMPRESSED, FIRST_ROW, pack_where
from blockstore.store.home import MemoryHome
from blockstore.store.rows import Rows
from blockstore.store.store import Store
from tests.store.material import noise, put


def filled(digests: npt.NDArray[np.uint64]) -> Rows:
    """Rows with these digests."""
    rows = Rows(MemoryHome())
    rows.reserve(len(digests))
    new = rows.take(len(digests))
    rows.digest.array[new] = digests
    rows.where.array[new] = pack_where(8, 8, COMPRESSED)
    return rows


def chain(index: ContentIndex, key: int) -> list[int]:
    """The rows that a search for the digest comes by."""
    slots, found = index.slots.items, []
    slot = key % len(slots)
    while slots[slot]:
        found.append(slots[slot])
        slot = (slot + 1) % len(slots)
        assert len(found) <= len(slots), "the index has no empty slot"
    return found


def assert_all_found(index: ContentIndex, rows: Rows) -> None:
    live = np.flatnonzero(rows.where.array).tolist()
    for row in live:
        assert row in chain(index, rows.digest.items[row])
    entered = index.slots.array[index.slots.array != 0]
    assert sorted(entered.tolist()) == live and index.used == len(live)


@pytest.mark.parametrize("count", (0, 1, 5000, 30_000))
def test_rebuild_finds_all_and_grows(count: int) -> None:
    digests = np.random.default_rng(1).integers(0, 2**64, count, dtype=np.uint64)
    rows, index = filled(digests), ContentIndex(MemoryHome())
    index.rebuild(rows, 100)
    assert_all_found(index, rows)
    assert index.used + 100 <= MAXIMUM_LOAD * index.slots.capacity
    assert index.size_bytes == 4 * index.slots.capacity


@pytest.mark.parametrize("spread", (1, 3, 40))
def test_rebuild_of_colliding_digests_wraps_round(spread: int) -> None:
    index = ContentIndex(MemoryHome())
    length = index.slots.capacity
    # All bid for the last few slots, so that the chain goes on at the first ones.
    digests = (np.arange(1500, dtype=np.uint64) % np.uint64(spread)) + np.uint64(length - spread)
    rows = filled(digests)
    index.rebuild(rows)
    assert index.slots.capacity == length
    assert_all_found(index, rows)
    assert index.slots.items[0] and index.slots.items[length - 1]


def test_rebuild_leaves_freed_rows_out() -> None:
    digests = np.random.default_rng(2).integers(0, 2**64, 4000, dtype=np.uint64)
    rows, index = filled(digests), ContentIndex(MemoryHome())
    index.rebuild(rows)
    rows.give_back(np.arange(FIRST_ROW, FIRST_ROW + 4000, 2, dtype=np.uint32))
    index.rebuild(rows)
    assert index.used == 2000
    assert_all_found(index, rows)


def test_reserve_rebuilds_only_above_the_load() -> None:
    index = ContentIndex(MemoryHome())
    rows, slots = filled(np.array([], dtype=np.uint64)), index.slots
    index.reserve(int(MAXIMUM_LOAD * slots.capacity), rows)
    assert index.slots is slots
    index.reserve(int(MAXIMUM_LOAD * slots.capacity) + 2, rows)
    assert index.slots is not slots and index.slots.capacity > slots.capacity


def test_overwriting_for_ever_does_not_fill_the_index() -> None:
    store = Store(MemoryHome(), 64 << 20, patching=False)
    volume = store.create_volume(1, 1)
    for turn in range(300):
        put(store, volume, 0, b"".join(noise(turn * 64 + block)[:64] * 64 for block in range(64)))
        assert store.content.used <= MAXIMUM_LOAD * store.content.slots.capacity
    assert store.rows.live == 64
    for row in np.flatnonzero(store.rows.where.array).tolist():
        assert row in chain(store.content, store.rows.digest.items[row])
