"""What verification compares is what a model in Python finds, whatever the tables hold."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockstore.plane.tables.cross_count import (
    DAMAGED_ENTRY,
    DAMAGED_ROW,
    DUE_BLOCK,
    LOST_BLOCK,
    ORPHAN,
    OTHER_COUNTS,
    compare_counts,
    count_patches,
    count_pointers,
    judge_blocks,
    rows_that_need,
)
from blockstore.store.state.geometry import DUE, FIRST_ROW, ID_MASK, LOST_ENTRY, PAGED, PATCH_BITS
from blockstore.store.state.location import PAGED_PLACE, place_of
from tests.plane.tables.small_tables import PAGE_ENTRIES, PAGES, RANGES, SmallTables, small_tables

MARKS = st.lists(st.integers(0, 1), min_size=1, max_size=90).map(bytearray)


def numbers(count: int) -> array[int]:
    return array("I", [0] * count)


def is_patch(where: int) -> bool:
    return where & PATCH_BITS == PATCH_BITS


@given(small_tables(), RANGES, MARKS)
def test_verdicts_on_blocks(sample: SmallTables, blocks: tuple[int, int], damaged_rows: bytearray) -> None:
    first, end = blocks[0], max(blocks[1], blocks[0] + 1)
    expected = [0] * (end - first)
    for block, entry in sample.mapped(first, end):
        row = entry & ID_MASK
        if not sample.is_sound(entry):
            expected[block - first] = DAMAGED_ENTRY
        elif row >= FIRST_ROW:
            is_marked = row < len(damaged_rows) and damaged_rows[row]
            expected[block - first] = DAMAGED_ROW if is_marked else 0
        else:
            expected[block - first] = {LOST_ENTRY & ID_MASK: LOST_BLOCK, DUE: DUE_BLOCK}.get(row, 0)
    verdicts = bytearray(b"\xff" * (end - first))
    found = judge_blocks(sample.tables, sample.places, sample.block_map, first, damaged_rows, verdicts)
    assert list(verdicts) == expected
    assert found == sum(verdict not in (0, DUE_BLOCK) for verdict in expected)


@given(small_tables(), RANGES, st.integers(0, 90))
def test_map_entries_that_point_at_rows(sample: SmallTables, blocks: tuple[int, int], length: int) -> None:
    expected = [5] * length
    for _, entry in sample.mapped(*blocks):
        row = sample.points_at(entry)
        if FIRST_ROW <= row < length:
            expected[row] += 1
    counts = array("I", [5] * length)
    count_pointers(sample.tables, sample.block_map, *blocks, counts)
    assert counts.tolist() == expected


@given(small_tables(), st.integers(0, 90), st.integers(0, 90), st.integers(0, 90))
def test_patches_by_reference(sample: SmallTables, first: int, end: int, length: int) -> None:
    expected = [0] * length
    for row in range(first, min(end, sample.rows)):
        if is_patch(sample.where[row]) and sample.reference[row] < length:
            expected[sample.reference[row]] += 1
    dependents = numbers(length)
    count_patches(sample.tables, first, end, dependents)
    assert dependents.tolist() == expected


@given(small_tables(), st.data())
def test_verdicts_on_rows(sample: SmallTables, data: st.DataObject) -> None:
    rows = sample.rows
    first, end = sorted(data.draw(st.tuples(st.integers(0, rows), st.integers(0, rows))))
    few = st.lists(st.integers(0, 3), min_size=rows, max_size=rows)
    counts, dependents = array("I", data.draw(few)), array("I", data.draw(few))
    changed = bytearray(data.draw(st.lists(st.integers(0, 1), min_size=rows, max_size=rows)))
    expected = []
    for row in range(first, end):
        is_other = sample.count[row] != counts[row] or sample.dependents[row] != dependents[row]
        is_orphan = sample.where[row] and not counts[row] and not dependents[row]
        expected.append(0 if changed[row] else OTHER_COUNTS * is_other | (ORPHAN if is_orphan else 0))
    verdicts = bytearray(b"\xff" * (end - first))
    found = compare_counts(sample.tables, first, counts, dependents, changed, verdicts)
    assert list(verdicts) == expected and found == sum(map(bool, expected))


@given(small_tables(), st.data())
def test_rows_that_need_a_piece(sample: SmallTables, data: st.DataObject) -> None:
    first, end = sorted(data.draw(st.tuples(st.integers(0, sample.rows), st.integers(0, sample.rows))))
    pieces = [place_of(where) - PAGED_PLACE for where in sample.where if where & PAGED]
    piece = data.draw(st.sampled_from([*pieces, 0, 2**63, 2**64 - 1]))
    inside = {row for row, where in enumerate(sample.where) if place_of(where) == PAGED_PLACE + piece}
    expected = [
        row
        for row in range(first, end)
        if row in inside or (is_patch(sample.where[row]) and sample.reference[row] in inside)
    ]
    found = numbers(end - first)
    assert found[: rows_that_need(sample.tables, piece, first, found)].tolist() == expected


@given(small_tables())
def test_what_there_is_not_is_refused(sample: SmallTables) -> None:
    rows, marks = sample.rows, bytearray(sample.rows)
    more, enough, few = numbers(rows + 5), numbers(rows), numbers(rows - 1)
    for counts, dependents, changed in ((few, enough, marks), (enough, few, marks), (enough, enough, marks[1:])):
        with pytest.raises(ValueError, match="rows"):
            compare_counts(sample.tables, 1, counts, dependents, changed, bytearray(rows - 1))
    for first, length in ((rows, 1), (2**64 - 1, 1), (0, rows + 1)):
        with pytest.raises(ValueError, match="rows"):
            compare_counts(sample.tables, first, more, more, bytes(rows + 5), bytearray(length))
        with pytest.raises(ValueError, match="rows"):
            rows_that_need(sample.tables, 0, first, numbers(length))
    for damaged_rows, verdicts in ((b"", bytearray(1)), (b"\0", bytearray())):
        with pytest.raises(ValueError, match="marks"):
            judge_blocks(sample.tables, sample.places, sample.block_map, 0, damaged_rows, verdicts)


def test_a_map_that_is_closed_has_no_blocks() -> None:
    sample = SmallTables(
        array("Q", bytes(40)),
        array("Q", bytes(40)),
        numbers(5),
        numbers(5),
        array("H", bytes(10)),
        array("Q", [4] * PAGES * PAGE_ENTRIES),
        bytearray(b"\1" * PAGES),
    )
    counts, verdicts = numbers(5), bytearray(7)
    count_pointers(sample.tables, sample.block_map, 0, 1 << 60, counts)
    assert counts[4] == PAGES * PAGE_ENTRIES
    sample.block_map.unbind()
    count_pointers(sample.tables, sample.block_map, 0, 1 << 60, counts)
    assert counts[4] == PAGES * PAGE_ENTRIES
    assert not judge_blocks(sample.tables, sample.places, sample.block_map, 0, b"\0", verdicts) and not any(verdicts)
