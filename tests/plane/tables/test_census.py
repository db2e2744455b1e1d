"""The census counts what a model in Python does, and looks at no more map entries at a time than it may."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockstore.plane.tables.census import RowUsers, count_blocks, count_record_bytes, count_snapshot_entries
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


@given(small_tables(), RANGES, RANGES, st.integers(0, 90))
def test_vms_and_snapshots_apart(
    sample: SmallTables, of_snapshots: tuple[int, int], of_vms: tuple[int, int], rows: int
) -> None:
    """One map is both: some of its blocks are a snapshot's, some a VM's."""
    entries, needed = dict.fromkeys(range(rows), 0), set[int]()
    for _, entry in sample.mapped(*of_snapshots):
        if FIRST_ROW <= entry & ID_MASK < rows:
            entries[entry & ID_MASK] += 1
    counted, paid = dict.fromkeys(CLASSES, 0), dict.fromkeys(RECORDS, 0.0)
    for _, entry in sample.mapped(*of_vms):
        row = entry & ID_MASK
        if FIRST_ROW <= row < sample.rows:
            left = max(sample.count[row] - entries.get(row, 0), 0)
            needed |= {row, sample.reference[row]} if sample.where[row] & 3 == 3 else {row}
            kind = class_of(sample.where[row], left)
            counted[kind] += 1
            paid[kind] += size_of(sample.where[row]) / max(left, 1)
        elif entry != HOLE:
            counted["zero" if entry == ZERO_ENTRY else "paged" if row == DUE else "raw"] += 1
    theirs, snapshots, unique = dict.fromkeys(RECORDS, 0), dict.fromkeys(RECORDS, 0), 0
    for row in range(FIRST_ROW, sample.rows):
        where, count = sample.where[row], sample.count[row]
        is_needed = row >= rows or row in needed or count > entries[row]
        left = max(count - entries.get(row, 0), 0) if is_needed else count
        kind = "references" if left == 0 and not where & PAGED else class_of(where, left)
        (theirs if is_needed else snapshots)[kind] += size_of(where)
        unique += not is_needed and where != 0

    users, (by_class, paid_bytes) = RowUsers(rows), zeros()
    assert count_snapshot_entries(sample.block_map, *of_snapshots, 1 << 40, users) == of_snapshots[1]
    if rows:
        count_blocks(sample.tables, sample.block_map, *of_vms, 1 << 40, by_class, paid_bytes, users)
        assert by_class.tolist() == list(counted.values()) and paid_bytes.tolist() == list(paid.values())
        record_bytes, snapshot_bytes = (array("q", [0] * len(RECORDS)) for _ in range(2))
        found = count_record_bytes(sample.tables, 0, 1 << 40, record_bytes, users, snapshot_bytes)
        assert record_bytes.tolist() == list(theirs.values())
        assert (found, snapshot_bytes.tolist()) == (unique, list(snapshots.values()))


@given(small_tables())
def test_sums_are_by_class(sample: SmallTables) -> None:
    blocks, paid_bytes = zeros()
    for few, enough in ((blocks[1:], paid_bytes), (blocks, paid_bytes[1:])):
        with pytest.raises(ValueError, match="classes"):
            count_blocks(sample.tables, sample.block_map, 0, BLOCKS, 1, few, enough)
    with pytest.raises(ValueError, match="classes"):
        count_record_bytes(sample.tables, 0, 10, blocks[1:])
    for few_bytes in (None, blocks[1:]):
        with pytest.raises(ValueError, match="for snapshots"):
            count_record_bytes(sample.tables, 0, 10, blocks, RowUsers(9), few_bytes)
