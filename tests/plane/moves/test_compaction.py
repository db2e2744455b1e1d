"""Compaction moves each record as it is, and leaves each row at a record, whatever happens between two stores."""

from __future__ import annotations

import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockstore.errors import OutOfRoom
from blockstore.plane.moves.compaction import compact
from blockstore.plane.moves.placed_rows import PlacedRows
from blockstore.plane.moves.publish import call_at_points
from blockstore.store.state.geometry import RAW, SEGMENT_BYTES
from blockstore.store.state.location import PAGED_PLACE, pack
from tests.plane.moves.moving import LIMIT_BYTES, Moving


def compact_all(moving: Moving, placed: PlacedRows, most_rows: int) -> bool:
    """Takes the whole list as compaction of a store does; False when there is no room."""
    pool = moving.pool
    while placed.left:
        taken = compact(pool.log, placed, most_rows)
        assert taken <= most_rows
        pool.take_back()
        if taken < most_rows and placed.left:
            assert not pool.log.error
            try:
                pool.make_room_for(SEGMENT_BYTES, 0)
            except OutOfRoom:
                return False
    return True


@settings(max_examples=30)
@given(st.integers(0, 1 << 30), st.integers(1, 500), st.sampled_from((50, 700, 4096)), st.floats(0, 1))
def test_against_a_model(seed: int, most_rows: int, most_bytes: int, kept: float) -> None:
    moving = Moving(seed)
    rows = moving.fill(1500, most_bytes=most_bytes)
    for row in moving.chance.sample(rows, int((1 - kept) * len(rows))):
        moving.free(row)
    victims = moving.chance.sample(range(moving.pool.head), min(2, moving.pool.head))
    inside = [row for row in moving.records if moving.place(row) in victims]
    emptied = {moving.place(row) for row in inside}
    before, generation = list(moving.where.items), list(moving.pool.segments.generation)
    assert compact_all(moving, moving.placed(victims), most_rows)
    moving.check()
    assert {row for row in range(len(before)) if before[row] != moving.where.items[row]} == set(inside)
    for victim in emptied:
        is_filled_anew = moving.pool.segments.generation[victim] != generation[victim]
        assert is_filled_anew or not moving.pool.is_allocated(victim), "empty segments go back"


def test_what_has_changed_since_it_was_listed_is_passed_over() -> None:
    moving = Moving()
    rows = moving.fill(2000, 1000, 1000)
    placed = moving.placed([0, 1])
    inside = [row for row in rows if moving.place(row) in (0, 1)]
    for row in inside[::3]:
        moving.free(row)
    for row in inside[1::3]:
        moving.free(row)
        moving.put(row, b"new")
    new = {row: moving.where.items[row] for row in inside[1::3]}
    placed.leave_out(1)
    in_one = {row: moving.where.items[row] for row in inside[2::3] if moving.place(row) == 1}
    assert compact_all(moving, placed, 100) and in_one
    assert {row: moving.where.items[row] for row in new} == new, "what is elsewhere stays there"
    assert {row: moving.where.items[row] for row in in_one} == in_one, "a place that is left out keeps its records"
    moving.check()


def test_damaged_words() -> None:
    """They are moved as they are, as far as there is something, and never beyond a table."""
    moving = Moving()
    rows = moving.fill(20, 1000, 1000)
    last = moving.pool.segments.count - 1
    words = {
        rows[0]: pack(100, 0, RAW),
        rows[1]: pack(200, 8191, RAW),
        rows[2]: pack((last + 1) * SEGMENT_BYTES - 10, 4096, RAW),
        rows[3]: pack((last + 1) * SEGMENT_BYTES, 4096, RAW),
        rows[4]: pack((PAGED_PLACE + 3) * SEGMENT_BYTES, 1000, RAW),
        rows[5]: pack(1 << 46, 77, RAW),
    }
    for row, word in words.items():
        moving.where.items[row] = word
        del moving.records[row]
    wild = moving.pool.view[200 : 200 + 8191].tobytes()
    placed = moving.placed([0, last, last + 1, PAGED_PLACE + 3, 1 << 26])
    assert placed.left == 20
    assert compact_all(moving, placed, 7)
    for row in (rows[0], rows[4]):
        assert moving.where.items[row] == words[row], "there is no record to move"
    assert moving.record(rows[1]) == wild
    assert moving.record(rows[2]) == bytes(4096) and moving.record(rows[5]) == bytes(77)
    for row, record in moving.records.items():
        assert moving.record(row) == record


def test_the_head_is_filled_before_there_must_be_room() -> None:
    moving = Moving(limit_bytes=LIMIT_BYTES)
    moving.fill(2040, 4096, 4096)  # just under eight segments
    placed = moving.placed([0])
    before = moving.pool.log.head_end - moving.pool.log.tail
    assert moving.pool.log.spare < 0 and 0 < before < SEGMENT_BYTES
    assert compact(moving.pool.log, placed, 256) == before // 4096
    assert compact(moving.pool.log, placed, 256) == 0 and not moving.pool.log.error, "it asks for a spare segment"
    moving.pool.make_room_for(SEGMENT_BYTES, 0)
    assert compact(moving.pool.log, placed, 256) == 256 - before // 4096
    moving.check()


def test_records_that_cannot_be_written_stay() -> None:
    moving = Moving()
    moving.fill(300, 4000, 4000)
    placed, log = moving.placed([0]), moving.pool.log
    before = placed.numbers()
    full = os.open("/dev/full", os.O_RDWR)
    kept = os.dup(moving.pool._fd)
    os.dup2(full, moving.pool._fd)
    try:
        assert compact(log, placed, 100) == 0 and log.error
    finally:
        os.dup2(kept, moving.pool._fd)
        os.close(full)
        os.close(kept)
    assert placed.numbers() == before
    moving.check()
    assert compact_all(moving, placed, 100)
    moving.check()


def test_what_was_let_go_must_be_taken_back() -> None:
    moving = Moving()
    moving.fill(3)
    with pytest.raises(ValueError, match="taken back"):
        compact(moving.pool.log, moving.placed([0]), 1 << 20)


def test_dead_at_each_store() -> None:
    """Before each of them every row has its record, the old one or the new one."""
    moving = Moving()
    rows = moving.fill(700, 2000, 3000)
    for row in moving.chance.sample(rows, 300):
        moving.free(row)
    points = 0

    def at_point() -> None:
        nonlocal points
        points += 1
        for row, record in moving.records.items():
            assert moving.record(row) == record

    count = sum(1 for row in moving.records if moving.place(row) == 0)
    call_at_points(at_point)
    try:
        assert compact_all(moving, moving.placed([0]), 50)
    finally:
        call_at_points(None)
    assert points == count
    moving.check()
