"""Segments and pieces are chosen as simple models choose them."""

from __future__ import annotations

import os
from array import array

from hypothesis import given
from hypothesis import strategies as st

from blockstore.plane.moves.choice import coldest, emptiest, sparse, warmest
from blockstore.plane.tables.log import Log

SEGMENTS = st.lists(
    st.tuples(st.booleans(), st.booleans(), st.integers(-5, 50), st.integers(-5, 50), st.integers(-5, 50)), max_size=40
)
"""has_memory, is_retired, live bytes, generation, read_at."""

Segments = list[tuple[bool, bool, int, int, int]]


def log_of(segments: Segments, spare: int, has_head: bool) -> Log:
    """A log of these, with a spare segment, or a head that was one, if `spare` is one of them."""
    fd = os.memfd_create("pool")
    log = Log(fd)
    log.bind(array("q", [row[2] for row in segments]), array("q", [row[3] for row in segments]))
    if spare < len(segments):
        log.set_spare(spare)
    if has_head and spare < len(segments):
        log.append(b"x", array("Q", [1]))
    os.close(fd)
    return log


@given(SEGMENTS, st.integers(0, 50), st.booleans(), st.integers(-10, 60), st.integers(0, 2**40))
def test_segments(segments: Segments, spare: int, has_head: bool, most_live_bytes: int, most: int) -> None:
    log = log_of(segments, spare, has_head)
    assert {log.head, log.spare} <= {-1, spare}
    has_memory, is_retired = (array("B", [row[column] for row in segments]) for column in (0, 1))
    read_at = array("q", [row[4] for row in segments])
    full = [number for number, row in enumerate(segments) if row[0] and not row[1] and number != spare]

    by_live = sorted(
        (number for number in full if segments[number][2] <= most_live_bytes),
        key=lambda number: max(segments[number][2], 0),
    )
    assert emptiest(log, has_memory, is_retired, most_live_bytes, most) == by_live[:most]
    by_age = sorted(full, key=lambda number: max(*segments[number][3:], 0))
    assert coldest(log, has_memory, is_retired, read_at, most) == by_age[:most]


def test_no_more_segments_than_each_column_has() -> None:
    segments = [(True, False, number, number, 0) for number in range(10)]
    log, ones, zeros = log_of(segments, 99, has_head=False), array("B", [1] * 10), array("B", [0] * 10)
    assert emptiest(log, ones[:3], zeros, 100, 10) == emptiest(log, ones, zeros[:3], 100, 10) == [0, 1, 2]
    assert coldest(log, ones, zeros, array("q", [5] * 4), 10) == [0, 1, 2, 3]
    assert emptiest(log, array("B"), array("B"), 100, 10) == coldest(log, ones, zeros, array("q"), 10) == []


@given(st.lists(st.integers(0, 100), max_size=60), st.integers(0, 110), st.integers(0, 2**40))
def test_warmest(heat: list[int], least: int, most: int) -> None:
    column = array("q", heat)
    expected = sorted((piece for piece, records in enumerate(heat) if records >= least), key=lambda piece: -heat[piece])
    assert warmest(column, least, most) == expected[:most]
    assert column.tolist() == [records // 2 for records in heat]


PIECES = st.lists(st.tuples(st.integers(0, 200), st.integers(-5, 200)), max_size=60)
"""Lengths and live bytes."""


@given(PIECES, st.sets(st.integers(0, 60)), st.sampled_from((0.25, 0.5, 1.0)), st.integers(0, 2000))
def test_sparse(pieces: list[tuple[int, int]], unfit: set[int], share: float, most_bytes: int) -> None:
    lengths, live_bytes = (array("q", [row[column] for row in pieces]) for column in (0, 1))
    candidates = [
        piece for piece, (length, live) in enumerate(pieces) if length and live < share * length and piece not in unfit
    ]
    candidates.sort(key=lambda piece: max(live_bytes[piece], 0))
    expected = [
        piece
        for number, piece in enumerate(candidates, 1)
        if sum(max(live_bytes[other], 0) for other in candidates[:number]) <= most_bytes
    ]
    assert sparse(lengths, live_bytes, unfit, share, most_bytes) == expected
