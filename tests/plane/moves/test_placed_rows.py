"""Rows are found by the place of their records, and listed as a simple model lists them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockstore.plane.moves.placed_rows import PlacedRows
from blockstore.plane.tables.tables import Tables
from blockstore.store.state.geometry import FIRST_ROW, SEGMENT_BYTES
from blockstore.store.state.home import MemoryHome
from blockstore.store.state.location import PAGED_PLACE, pack, place_of, start_of
from blockstore.store.state.rows import Rows

PLACES = (0, 1, 2, 3, 255, 4096, (1 << 27) - 1, PAGED_PLACE, PAGED_PLACE + 5, (1 << 28) - 1)
"""The first and the last of segments and of pieces, and others."""

WORDS = st.one_of(
    st.just(0),
    st.builds(
        lambda place, start, size: pack(place * SEGMENT_BYTES + start, size, 2),
        st.sampled_from(PLACES),
        st.integers(0, SEGMENT_BYTES - 1),
        st.integers(0, 8191),
    ),
    st.integers(0, 2**64 - 1),
)


def rows_of(tables: Tables, words: list[int]) -> Rows:
    """Rows with these words."""
    rows = Rows(MemoryHome(), tables)
    rows.reserve(len(words))
    for row, word in zip(rows.take(len(words)), words, strict=True):
        rows.where.items[int(row)] = word
    return rows


def listed(placed: PlacedRows, next_row: int, most_rows: int) -> list[int]:
    """Looks at all rows, so many at a time."""
    while placed.scan(next_row, most_rows):
        pass
    placed.sort()
    assert placed.left == len(placed.numbers())
    return placed.numbers()


@given(
    st.lists(WORDS, max_size=300),
    st.lists(st.one_of(st.sampled_from(PLACES), st.integers(0, 2**28 - 1)), max_size=12),
    st.integers(1, 100),
)
def test_against_a_model(words: list[int], places: list[int], most_rows: int) -> None:
    tables = Tables()
    rows = rows_of(tables, words)
    placed = PlacedRows(tables)
    placed.begin(places)
    found = listed(placed, rows.next_row, most_rows)
    inside = [row for row, word in enumerate(words, FIRST_ROW) if word and place_of(word) in places]

    def order(row: int) -> tuple[int, int, int]:
        word = words[row - FIRST_ROW]
        return places.index(place_of(word)), start_of(word), row

    assert found == sorted(inside, key=order)
    rows.close()


def test_many_rows_of_many_places() -> None:
    """The list grows, and its order takes several digits."""
    tables = Tables()
    places = [place * 7 % 5003 for place in range(5003)]
    words = [pack((number * 31 % 5003) * SEGMENT_BYTES + number * 97 % SEGMENT_BYTES, 1, 2) for number in range(40_000)]
    rows = rows_of(tables, words)
    placed = PlacedRows(tables)
    placed.begin(places)
    rank = {place: number for number, place in enumerate(places)}
    expected = sorted(range(len(words)), key=lambda number: (rank[place_of(words[number])], start_of(words[number])))
    assert listed(placed, rows.next_row, 1 << 16) == [FIRST_ROW + number for number in expected]
    placed.begin([1 << 26])
    assert not placed.left, "a new look forgets the list"
    assert listed(placed, rows.next_row, 1 << 16) == []
    rows.close()


def test_no_row_beyond_the_table_is_looked_at() -> None:
    tables = Tables()
    placed = PlacedRows(tables)
    placed.begin([0])
    assert not placed.scan(1 << 40, 1 << 40), "there are no rows at all"
    rows = rows_of(tables, [pack(1, 1, 2)])
    assert not placed.scan(2**64 - 1, 2**64 - 1)
    placed.sort()
    assert placed.numbers() == [FIRST_ROW]
    placed.sort()
    assert not placed.left, "nothing was found since"
    rows.close()


def test_places_that_cannot_be() -> None:
    placed = PlacedRows(Tables())
    for place in (-1, 1 << 64):
        with pytest.raises(OverflowError):
            placed.begin([place])
    placed.leave_out(77)
    placed.begin([2**64 - 1])
    assert listed(placed, 0, 1) == []
