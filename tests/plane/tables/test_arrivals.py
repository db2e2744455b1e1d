"""The table of arrivals and entries of blocks that are due, against models, damaged or not."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockstore.plane.tables import arrivals
from blockstore.plane.tables.arrivals import (
    due_blocks,
    due_entries,
    enter_arrivals,
    highest,
    is_any_due,
    record_words,
    rows_of_domain,
    sources_of,
    used_arrivals,
)
from blockstore.plane.tables.tables import Tables
from blockstore.store.remote.arrivals import entry_of, place_of
from blockstore.store.state.geometry import BLOCK_BYTES, DENSE, HOLE, MAXIMUM_DUE, RAW, SEGMENT_BYTES, ZERO_ENTRY
from blockstore.store.state.home import MemoryHome
from blockstore.store.state.location import LAST_PIECE, pack, size_of, start_of
from blockstore.store.state.rows import Rows

WORDS = 4
NUMBER = st.integers(0, (1 << 64) - 1)
ENTRY = st.one_of(
    st.builds(entry_of, st.integers(0, 20)),
    st.builds(lambda place, bit: entry_of(place) ^ 1 << bit, st.integers(0, 20), st.integers(0, 63)),
    st.sampled_from([HOLE, ZERO_ENTRY, 4, entry_of(MAXIMUM_DUE - 1)]),
    NUMBER,
)


def test_as_many_as_the_format_says() -> None:
    assert arrivals.MAXIMUM_DUE == MAXIMUM_DUE


@given(st.lists(st.sampled_from([0, 0, 0, 5]), max_size=30))
def test_what_is_used(words: list[int]) -> None:
    used = [number for number, word in enumerate(words) if word]
    assert used_arrivals(array("Q", words)) == (used[-1] // WORDS + 1 if used else 0)


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 5)), max_size=6), st.data())
def test_sources(runs: list[tuple[int, int]], data: st.DataObject) -> None:
    of_each = [source for source, length in runs for _ in range(length)]
    table = array("Q", [word for source in of_each for word in (9, 9, 9, source)] + [7] * WORDS)
    count = data.draw(st.integers(0, len(of_each)))
    assert sources_of(table, count) == set(of_each[:count])
    with pytest.raises(ValueError, match="arrivals of"):
        sources_of(table, len(of_each) + 2)


@given(st.lists(st.tuples(NUMBER, st.binary(min_size=16, max_size=16)), max_size=5), st.integers(0, 3))
def test_entering(new: list[tuple[int, bytes]], first: int) -> None:
    table, room = array("Q", [1]) * (6 * WORDS), 6 - first
    where, digests = array("Q", [word for word, _ in new]), b"".join(digest for _, digest in new)
    if len(new) > room:
        with pytest.raises(ValueError, match="arrivals of source"):
            enter_arrivals(table, first, 3, where, digests)
        assert set(table) == {1}
        return
    enter_arrivals(table, first, 3, where, digests)
    expected = [1] * (6 * WORDS)
    for number, (word, digest) in enumerate(new, first):
        words = word, int.from_bytes(digest[:8], "little"), int.from_bytes(digest[8:], "little"), 3
        expected[number * WORDS : (number + 1) * WORDS] = words
    assert list(table) == expected


@pytest.mark.parametrize(
    ("first", "source", "digest_bytes"), ((0, 0, 32), (1, 3, 32), (1 << 63, 3, 32), (0, 3, 31), (0, 3, 33), (0, 3, 16))
)
def test_arrivals_that_are_refused(first: int, source: int, digest_bytes: int) -> None:
    table = array("Q", [1]) * (2 * WORDS)
    with pytest.raises(ValueError, match="arrivals of source"):
        enter_arrivals(table, first, source, array("Q", [5, 6]), bytes(digest_bytes))
    assert set(table) == {1}


@given(st.lists(st.integers(0, 100)), st.integers(0, MAXIMUM_DUE - 100))
def test_entries_of_places(places: list[int], first: int) -> None:
    entries, due = due_entries(array("I", places), first)
    assert list(entries) == [entry_of(first + place - 1) if place else HOLE for place in places]
    assert due == sum(map(bool, places)) == sum(map(bool, entries))
    assert due_blocks(entries, MAXIMUM_DUE, 3) == [3 + number for number, place in enumerate(places) if place]


@pytest.mark.parametrize(
    ("place", "first"), ((1, MAXIMUM_DUE), (2, MAXIMUM_DUE - 1), ((1 << 32) - 1, 0), (0, MAXIMUM_DUE + 1), (1, 1 << 63))
)
def test_a_place_that_no_entry_can_name(place: int, first: int) -> None:
    with pytest.raises(ValueError, match="of 70409299"):
        due_entries(array("I", [place]), first)
    assert due_entries(array("I", [1]), MAXIMUM_DUE - 1) == (array("Q", [entry_of(MAXIMUM_DUE - 1)]), 1)


@given(st.lists(ENTRY, max_size=30), st.sampled_from([0, 1, 10, MAXIMUM_DUE]), st.integers(0, 1 << 40))
def test_which_are_due(entries: list[int], count: int, first: int) -> None:
    def is_due(entry: int) -> bool:
        place = place_of(entry)
        return place is not None and place < count

    expected = [number for number, entry in enumerate(entries, first) if is_due(entry)]
    assert due_blocks(array("Q", entries), count, first) == expected
    assert is_any_due(array("Q", entries), count) == bool(expected)


def test_rows_of_a_domain() -> None:
    tables = Tables()
    rows = Rows(MemoryHome(), tables)
    taken = list(rows.take(40))
    for number, row in enumerate(taken):
        rows.domain.items[row] = number % 3
        rows.where.items[row] = 0 if number % 5 == 0 else pack(0, 10, DENSE)
    expected = [row for number, row in enumerate(taken) if number % 3 == 1 and number % 5]
    assert rows_of_domain(tables, 1, 0, 1 << 60) == expected
    assert rows_of_domain(tables, 1, expected[1], expected[3]) == expected[1:3]
    assert not rows_of_domain(tables, 0, 0, taken[0]), "free rows, and those that are none, have domain 0"
    assert not rows_of_domain(Tables(), 0, 0, 100)
    rows.close()


@given(st.lists(st.one_of(st.integers(1, BLOCK_BYTES), st.just(BLOCK_BYTES)), max_size=30), st.integers(0, 5))
def test_words_of_records(sizes: list[int], repeated: int) -> None:
    sizes *= 1 + 5 * repeated  # some pieces full
    words = record_words(array("H", sizes).tobytes(), 1)
    piece, start = 1, 0
    for size, word in zip(sizes, words, strict=True):
        if start + size > SEGMENT_BYTES:
            piece, start = piece + 1, 0
        assert word == pack(piece * SEGMENT_BYTES + start, size, RAW if size == BLOCK_BYTES else DENSE)
        assert (size_of(word), start_of(word)) == (size, start)
        start += size


@pytest.mark.parametrize("sizes", ([0], [5, BLOCK_BYTES + 1], [(1 << 16) - 1]))
def test_sizes_that_no_record_has(sizes: list[int]) -> None:
    with pytest.raises(ValueError, match="a record of"):
        record_words(array("H", sizes).tobytes(), 1)


def test_records_for_which_there_are_no_pieces() -> None:
    sizes = array("H", [BLOCK_BYTES]) * (SEGMENT_BYTES // BLOCK_BYTES)
    assert len(record_words(sizes.tobytes(), LAST_PIECE)) == len(sizes)
    for data, first_piece in ((sizes.tobytes() + b"\1\0", LAST_PIECE), (b"", LAST_PIECE + 1), (b"\1\0\1", 1)):
        with pytest.raises(ValueError, match="a record of"):
            record_words(data, first_piece)


@given(st.lists(st.integers(0, (1 << 32) - 1)))
def test_the_highest(numbers: list[int]) -> None:
    assert highest(array("I", numbers)) == max(numbers, default=0)
