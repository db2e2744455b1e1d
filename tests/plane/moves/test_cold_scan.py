"""Rows that a pass of re-encoding is to try: those of a model in Python, whatever their words say."""

from __future__ import annotations

from array import array
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockstore.plane.moves.cold_scan import ColdScan
from blockstore.plane.moves.cold_segments import ColdSegments
from blockstore.plane.tables.tables import Tables
from blockstore.store.state.geometry import (
    COMPRESSED,
    DENSE,
    DENSE_PATCHED,
    ENCODING_MASK,
    FIRST_ROW,
    HINT,
    PAGED,
    PATCH_BITS,
    PATCHED,
    RAW,
    SEGMENT_BYTES,
)
from blockstore.store.state.home import MemoryHome
from blockstore.store.state.location import pack, place_of, size_of
from blockstore.store.state.rows import Rows

ROWS_A_STEP, MINIMUM_BYTES, LONE_SHARE = 7, 256, 0.25
SEGMENTS = 6
ENCODINGS = (RAW, COMPRESSED, PATCHED, DENSE, DENSE_PATCHED)


class Row(NamedTuple):
    """One line of the table of rows."""

    where: int
    reference: int
    entries: int
    dependents: int


WHERE = st.one_of(
    st.builds(
        lambda segment, size, encoding, paged: pack(segment * SEGMENT_BYTES, size, encoding) | paged,
        st.integers(0, SEGMENTS + 1),
        st.sampled_from((0, 100, 255, 256, 900, 1000, 4096)),
        st.sampled_from(ENCODINGS),
        st.sampled_from((0, 0, 0, 0, PAGED)),
    ),
    st.just(0),
    st.integers(0, 2**64 - 1),
)
REFERENCE = st.one_of(st.integers(0, 40), st.sampled_from((HINT | 5, 2**32 - 1, 4095, 4096)))
ROWS = st.lists(
    st.builds(Row, WHERE, REFERENCE, st.sampled_from((0, 0, 1)), st.sampled_from((0, 1, 1, 2))), max_size=40
)


def table_of(rows: list[Row]) -> tuple[Rows, Tables]:
    """These are rows FIRST_ROW and up."""
    tables = Tables()
    table = Rows(MemoryHome(), tables)
    for number, row in enumerate(rows, FIRST_ROW):
        table.where.items[number] = row.where
        table.reference.items[number] = row.reference
        table.count.items[number] = row.entries
        table.dependents.items[number] = row.dependents
    return table, tables


def cold_segments(numbers: set[int]) -> ColdSegments:
    """Of SEGMENTS, these."""
    cold = ColdSegments()
    cold.look(
        array("q", [1] * SEGMENTS), bytes(number in numbers for number in range(SEGMENTS)), bytes(SEGMENTS), -1, -1
    )
    cold.choose_first(array("q", [-1] * SEGMENTS), array("d", [0.0] * SEGMENTS), 0.0)
    return cold


def scan_of(tables: Tables, cold: ColdSegments, rows_a_step: int = ROWS_A_STEP) -> ColdScan:
    return ColdScan(tables, cold, rows_a_step, minimum_bytes=MINIMUM_BYTES, lone_share=LONE_SHARE)


def is_wanted(row: Row, table: Rows, tried: set[int], cold: set[int]) -> bool:
    if row.where & PAGED or size_of(row.where) < MINIMUM_BYTES:
        return False
    if row.where & ENCODING_MASK in tried and place_of(row.where) in cold:
        return True
    base = row.reference
    if row.where & PATCH_BITS != PATCH_BITS or not FIRST_ROW <= base < table.capacity:
        return False
    where = table.where.items[base]
    if table.count.items[base] or table.dependents.items[base] != 1 or where & PAGED or not size_of(where):
        return False
    return size_of(row.where) >= LONE_SHARE * size_of(where)


@given(ROWS, st.sets(st.sampled_from(ENCODINGS)), st.sets(st.integers(0, SEGMENTS - 1)))
def test_rows_are_found_as_by_a_model(rows: list[Row], tried: set[int], cold: set[int]) -> None:
    table, tables = table_of(rows)
    scan = scan_of(tables, cold_segments(cold), 4096)
    scan.begin(sum(1 << encoding for encoding in tried))
    assert scan.step()
    wanted = [number for number, row in enumerate(rows, FIRST_ROW) if is_wanted(row, table, tried, cold)]
    assert scan.numbers() == wanted and scan.pending == len(wanted)
    table.close()


def test_all_rows_are_looked_at_in_steps_and_those_that_come_meanwhile() -> None:
    table, tables = table_of([])
    scan = scan_of(tables, cold_segments({0}))
    scan.begin(1 << RAW)
    assert scan.step() and not scan.pending
    table.reserve(table.free.left + 1000)
    for row in (FIRST_ROW, FIRST_ROW + ROWS_A_STEP, table.capacity - 2, table.capacity - 1):
        table.where.items[row] = pack(0, 1000, RAW)
    assert scan.step() and scan.numbers() == [FIRST_ROW + ROWS_A_STEP]
    with pytest.raises(ValueError, match="1 rows are still to be taken"):
        scan.step()
    table.where.items[FIRST_ROW] = table.where.items[FIRST_ROW + ROWS_A_STEP] = 0
    scan.begin(1 << RAW)
    while not scan.pending:
        assert scan.step()
    last = scan.numbers()
    assert last and last[-1] in (table.capacity - 2, table.capacity - 1)
    table.close()


def test_nothing_is_wanted_at_first_and_at_the_end() -> None:
    table, tables = table_of([Row(pack(0, 1000, RAW), 0, 1, 0)])
    scan = scan_of(tables, cold_segments({0}), 4096)
    assert scan.step() and not scan.pending and not scan.encodings
    assert not scan.step()
    scan.begin(1 << DENSE)
    assert scan.step() and not scan.pending and not scan.step()
    table.close()
    scan.begin(1 << RAW)
    assert not scan.step(), "the tables are closed"


@pytest.mark.parametrize("rows_a_step", (0, (1 << 24) + 1))
def test_other_numbers_of_rows_a_step_are_refused(rows_a_step: int) -> None:
    with pytest.raises(ValueError, match="rows a step"):
        scan_of(Tables(), ColdSegments(), rows_a_step)
