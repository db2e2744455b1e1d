"""Block rows: the layout is pinned, rows are taken and freed, a start frees what nothing points at."""

from __future__ import annotations

from array import array
from pathlib import Path

import numpy as np
import pytest

from blockstore.errors import OutOfRoom
from blockstore.store.state.geometry import BLOCK_BYTES, COMPRESSED, DENSE_PATCHED, FIRST_ROW, PATCHED, ROW_BYTES
from blockstore.store.state.home import DirectoryHome, MemoryHome
from blockstore.store.state.location import pack
from blockstore.store.state.rows import MAXIMUM_DEPENDENTS, Rows
from blockstore.store.steps import Outcome
from blockstore.store.store import Store
from tests.store.columns import column
from tests.store.material import noise, put


def test_layout() -> None:
    rows = Rows(MemoryHome())
    columns = {
        one.name: one.items.itemsize
        for one in (rows.where, rows.digest, rows.reference, rows.domain, rows.count, rows.dependents)
    }
    assert columns == {
        "rows-where": 8,
        "rows-digest": 8,
        "rows-reference": 4,
        "rows-domain": 2,
        "rows-count": 4,
        "rows-dependents": 2,
    }
    assert sum(columns.values()) == ROW_BYTES == 28
    assert MAXIMUM_DEPENDENTS + 32 < 1 << 16  # a slice adds at most 32 beyond it
    assert rows.size_bytes == sum(
        one.capacity * one.items.itemsize
        for one in (rows.where, rows.digest, rows.reference, rows.domain, rows.count, rows.dependents)
    )


def test_take_give_back_reserve() -> None:
    rows = Rows(MemoryHome())
    first_capacity = rows.capacity
    rows.reserve(first_capacity + 1000)
    assert rows.capacity >= first_capacity + 1000
    taken = rows.take(first_capacity + 1000).tolist()
    assert len(set(taken)) == len(taken) and min(taken) == FIRST_ROW and max(taken) < rows.capacity
    for row in taken:
        rows.where.items[row] = pack(row, 1, COMPRESSED)
    assert rows.live == len(taken)
    rows.give_back(taken[:10])
    assert rows.live == len(taken) - 10 and not column(rows.where)[taken[:10]].any()
    again = rows.take(12).tolist()
    assert set(again) == {*taken[:10], taken[-1] + 1, taken[-1] + 2}


@pytest.mark.parametrize("encoding", (PATCHED, DENSE_PATCHED))
def test_rebuild_frees_orphans_and_keeps_the_rest(encoding: int) -> None:
    rows = Rows(MemoryHome())
    rows.reserve(10)
    mapped, reference, orphan, patch, orphan_patch, lost_reference, last = rows.take(7).tolist()
    for row in (mapped, reference, orphan, lost_reference, last):
        rows.where.items[row] = pack(row * 100, 100, COMPRESSED)
    for row, against in ((patch, reference), (orphan_patch, lost_reference)):
        rows.where.items[row] = pack(row * 100, 50, encoding)
        rows.reference.items[row] = against
    column(rows.count)[:] = 77  # what a killed process left
    column(rows.dependents)[:] = 88
    counts = np.zeros(rows.capacity, dtype=np.uint32)
    counts[[0, 1, mapped, patch, last]] = (900, 800, 3, 1, 2)

    rows.rebuild(counts)

    assert np.flatnonzero(column(rows.where)).tolist() == [mapped, reference, patch, last]
    assert {row: rows.count.items[row] for row in np.flatnonzero(column(rows.count)).tolist()} == {
        mapped: 3,
        patch: 1,
        last: 2,
    }
    assert np.flatnonzero(column(rows.dependents)).tolist() == [reference]
    assert rows.dependents.items[reference] == 1
    assert sorted(rows.free.numbers()) == [orphan, orphan_patch, lost_reference] and rows.next_row == last + 1
    assert rows.live == 4


def test_rebuild_of_nothing() -> None:
    rows = Rows(MemoryHome())
    rows.where.items[FIRST_ROW] = pack(0, 100, COMPRESSED)
    rows.rebuild(array("I", [0]) * rows.capacity)
    assert rows.live == 0 and rows.next_row == FIRST_ROW and not rows.free


@pytest.mark.parametrize("grown", range(1, 6))
def test_a_growth_that_was_killed_half_way_is_completed(state_path: Path, grown: int) -> None:
    home = DirectoryHome(state_path)
    rows = Rows(home)
    (row,), capacity = rows.take(1).tolist(), rows.capacity
    rows.where.items[row] = pack(0, 100, COMPRESSED)
    for one in (rows.where, rows.digest, rows.reference, rows.domain, rows.count)[:grown]:
        one.grow(int(capacity * 1.125))
    rows.close()

    rows = Rows(home)
    assert rows.capacity >= int(capacity * 1.125)
    counts = np.zeros(rows.capacity, dtype=np.uint32)
    counts[row] = 1
    rows.rebuild(counts)
    assert rows.live == 1 and rows.count.items[row] == 1
    rows.close()
    home.close()


def test_every_reserved_row_can_be_used_after_reopening(state_path: Path) -> None:
    home = DirectoryHome(state_path)
    rows = Rows(home)
    for wanted in (5000, 9001, 20_000):
        rows.reserve(wanted)
        rows.close()
        rows = Rows(home)
        rows.rebuild(array("I", [0]) * rows.capacity)
        assert rows.capacity >= wanted
        for one in (rows.where, rows.digest, rows.reference, rows.domain, rows.count, rows.dependents):
            assert len(one.items) >= rows.capacity
    rows.close()
    home.close()


def test_rows_that_could_not_grow_grow_when_there_is_room_again(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(MemoryHome(), 64 << 20)
    volume, rows, block = store.create_volume(1, 1), store.rows, 0

    def write() -> None:
        put(store, volume, block * BLOCK_BYTES, noise(block))

    while rows.free.left:
        write()
        block += 1

    def refuse(capacity: int) -> None:
        raise OutOfRoom("the file system is full")

    capacity = rows.capacity
    with monkeypatch.context() as patch:
        patch.setattr(rows.digest, "grow", refuse)
        for _ in range(2):
            assert next(store.write_steps(volume, block * BLOCK_BYTES, noise(block))) is Outcome.NO_ROOM
    assert rows.capacity == capacity and not rows.free.left
    write()
    assert rows.capacity > capacity
    store.close()
