"""Free rows: what is taken was free, and a refusal changes nothing."""

from __future__ import annotations

import sys
from array import array
from collections.abc import Iterator

import pytest

from blockstore.plane.tables.free_rows import FreeRows
from blockstore.plane.tables.tables import Tables
from blockstore.store.state.geometry import BLOCK_BYTES, FIRST_ROW, ID_MASK
from blockstore.store.state.home import MemoryHome
from blockstore.store.store import Store
from tests.store.material import near, noise, put, text


def rows(*numbers: int) -> array[int]:
    return array("I", numbers)


def test_what_was_freed_last_is_taken_first_and_then_what_was_never_used() -> None:
    free = FreeRows()
    free.grow(FIRST_ROW + 5)
    assert list(free.take(3)) == [FIRST_ROW, FIRST_ROW + 1, FIRST_ROW + 2] and free.in_use == 3 and free.left == 2
    free.give_back(rows(FIRST_ROW + 2, FIRST_ROW))
    assert len(free) == 2 and free.in_use == 1 and free.left == 4
    assert list(free.take(3)) == [FIRST_ROW, FIRST_ROW + 2, FIRST_ROW + 3] and free.next_row == FIRST_ROW + 4


def test_refusals_change_nothing() -> None:
    free = FreeRows()
    free.grow(FIRST_ROW + 5)
    free.take(2)
    for refused in (
        lambda: free.take(4),
        lambda: free.grow(FIRST_ROW + 4),
        lambda: free.give_back(rows(FIRST_ROW, FIRST_ROW + 2)),
        lambda: free.give_back(rows(FIRST_ROW - 1)),
        lambda: free.reset(FIRST_ROW + 6, rows()),
        lambda: free.reset(FIRST_ROW + 1, rows(FIRST_ROW, FIRST_ROW)),
    ):
        with pytest.raises(ValueError, match="row"):
            refused()
        assert free.numbers() == [] and free.next_row == FIRST_ROW + 2 and free.left == 3


def test_a_start_says_which_are_free() -> None:
    free = FreeRows()
    free.grow(100)
    free.take(50)
    free.reset(20, rows(7, 5))
    assert free.numbers() == [7, 5] and free.next_row == 20 and list(free.take(3)) == [5, 7, 20]


@pytest.fixture
def store() -> Iterator[Store]:
    """With one volume, 1. What it writes counts rows up and down, and has them marked."""
    made = Store(MemoryHome(), 16 << 20)
    made.create_volume(1, 1)
    yield made
    made.close()


def test_changed_rows_takes_marks_of_any_length(store: Store) -> None:
    for seed, marks in enumerate((bytearray(), bytearray(3), None)):
        store.rows.changed_rows.watch(marks)
        put(store, store.volumes[1], 0, noise(seed))
    with pytest.raises(BufferError):
        store.rows.changed_rows.watch(b"only to be read")
    put(store, store.volumes[1], 0, noise(4))
    assert store.read(store.volumes[1], 0, BLOCK_BYTES) == noise(4)


def test_marks_stay_until_there_are_others(store: Store) -> None:
    """A thread with the store lock may be about to mark in them when a comparison is given up without it."""
    changed, marks = store.rows.changed_rows, bytearray(store.rows.capacity)
    alone = sys.getrefcount(marks)
    changed.watch(marks)
    held = sys.getrefcount(marks)
    changed.watch(None)
    assert sys.getrefcount(marks) == held > alone
    put(store, store.volumes[1], 0, noise(1))
    assert not any(marks)
    changed.watch(bytearray(4))
    assert sys.getrefcount(marks) == alone


def test_changed_rows_that_have_a_place_are_marked(store: Store) -> None:
    """Those that a map entry comes to name, or names no longer, and references of patches."""
    volume = store.volumes[1]
    put(store, volume, 0, b"".join(map(noise, range(5))) + text(1))
    numbers = [volume.lookup(block) & ID_MASK for block in range(6)]
    marks = bytearray(max(numbers))  # but the last one, which is that of the text
    store.rows.changed_rows.watch(marks)
    put(store, volume, BLOCK_BYTES, noise(3) + near(text(1), 1))
    assert numbers[5] == len(marks) and store.rows.dependents.items[numbers[5]] == 1
    assert [row for row in range(len(marks)) if marks[row]] == [numbers[1], numbers[2], numbers[3]]
    store.rows.changed_rows.watch(None)
    put(store, volume, 0, noise(4))
    assert not marks[numbers[0]] and not marks[numbers[4]]


def test_words_are_cleared_before_rows_are_free() -> None:
    tables, free = Tables(), FreeRows()
    where = array("Q", [9]) * 8
    tables.bind_rows(
        where, array("Q", where), array("I", where), array("H", where), array("I", where), array("H", where)
    )
    free.grow(8)
    free.take(3)
    for refused in (rows(FIRST_ROW, FIRST_ROW + 3), rows(3)):
        with pytest.raises(ValueError, match="never taken"):
            free.clear(tables, refused)
    with pytest.raises(ValueError, match="another store"):
        free.clear(Tables(), rows(FIRST_ROW))
    assert set(where) == {9} and not len(free)
    free.clear(tables, rows(FIRST_ROW + 2, FIRST_ROW))
    assert list(where[FIRST_ROW:]) == [0, 9, 0, 9] and free.numbers() == [FIRST_ROW + 2, FIRST_ROW]
