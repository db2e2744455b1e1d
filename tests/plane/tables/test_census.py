"""The census counts what a model in Python does, and looks at no more map entries at a time than it may."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockstore.plane.tables.census import count_blocks, count_record_bytes
from blockstore.store.accounting.classes import CLASSES, RECORDS
from blockstore.store.state.geometry import (
    COMPRESSED,
    DENSE,
    DENSE_FIRST,
    DENSE_PATCHED,
    DENSE_SECOND,
    DUE,
    ENCODING_MASK,
    FIRST_ROW,
    HOLE,
    ID_MASK,
    PAGED,
    PATCHED,
    ZERO_ENTRY,
)
from blockstore.store.state.location import size_of
from tests.plane.tables.small_tables import PAGE_ENTRIES, PAGES, RANGES, SmallTables, small_tables

CLASS_OF_ENCODING = {
    PATCHED: "patched",
    COMPRESSED: "compressed",
    DENSE: "dense",
    DENSE_FIRST: "dense",
    DENSE_SECOND: "dense",
    DENSE_PATCHED: "dense",
}
BLOCKS = PAGES * PAGE_ENTRIES


def class_of(where: int, count: int) -> str:
    if where & PAGED:
        return "paged"
    return "shared" if count > 1 else CLASS_OF_ENCODING.get(where & ENCODING_MASK, "raw")


def zeros() -> tuple[array[int], array[float]]:
    return array("q", [0] * len(CLASSES)), array("d", [0.0] * len(RECORDS))


@given(small_tables(), RANGES)
def test_blocks_by_class_and_what_is_paid_for_them(sample: SmallTables, blocks: tuple[int, int]) -> None:
    counted, paid = dict.fromkeys(CLASSES, 0), dict.fromkeys(RECORDS, 0.0)
    for _, entry in sample.mapped(*blocks):
        row = entry & ID_MASK
        if FIRST_ROW <= row < sample.rows:
            kind = class_of(sample.where[row], sample.count[row])
            counted[kind] += 1
            paid[kind] += size_of(sample.where[row]) / max(sample.count[row], 1)
        elif entry != HOLE:
            counted["zero" if entry == ZERO_ENTRY else "paged" if row == DUE else "raw"] += 1

    by_class, paid_bytes = zeros()
    assert count_blocks(sample.tables, sample.block_map, *blocks, 1 << 40, by_class, paid_bytes) == blocks[1]
    assert by_class.tolist() == list(counted.values())
    assert paid_bytes.tolist() == list(paid.values())  # the same additions in the same order


@given(small_tables(), st.integers(1, 700))
def test_parts_make_the_whole(sample: SmallTables, most_entries: int) -> None:
    (whole, whole_paid), (parts, parts_paid) = zeros(), zeros()
    count_blocks(sample.tables, sample.block_map, 0, BLOCKS, 1 << 40, whole, whole_paid)
    block = 0
    while block < BLOCKS:
        following = count_blocks(sample.tables, sample.block_map, block, BLOCKS, most_entries, parts, parts_paid)
        looked_at = len(sample.mapped(block, following))
        assert looked_at == most_entries or (following == BLOCKS and looked_at < most_entries)
        block = following
    assert (parts, parts_paid) == (whole, whole_paid)


@given(small_tables(), st.integers(0, 90), st.integers(0, 90))
def test_record_bytes_by_class(sample: SmallTables, first: int, end: int) -> None:
    expected = dict.fromkeys(RECORDS, 0)
    for row in range(max(first, FIRST_ROW), min(end, sample.rows)):
        where, count = sample.where[row], sample.count[row]
        is_reference = count == 0 and not where & PAGED
        expected["references" if is_reference else class_of(where, count)] += size_of(where)
    record_bytes = array("q", [0] * len(RECORDS))
    count_record_bytes(sample.tables, first, end, record_bytes)
    assert record_bytes.tolist() == list(expected.values())


@given(small_tables())
def test_sums_are_by_class(sample: SmallTables) -> None:
    blocks, paid_bytes = zeros()
    for few, enough in ((blocks[1:], paid_bytes), (blocks, paid_bytes[1:])):
        with pytest.raises(ValueError, match="classes"):
            count_blocks(sample.tables, sample.block_map, 0, BLOCKS, 1, few, enough)
    with pytest.raises(ValueError, match="classes"):
        count_record_bytes(sample.tables, 0, 10, blocks[1:])
