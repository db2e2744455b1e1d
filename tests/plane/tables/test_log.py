"""The log's books: what is live, in all and by segment, and what was let go until it is taken back."""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockstore.plane.tables.log import MOST_LET_GO, Log
from blockstore.store.state.geometry import COMPRESSED, PAGED, SEGMENT_BYTES
from blockstore.store.state.location import pack, place_of, size_of

SEGMENTS = 3
WORD = st.builds(
    lambda place, size, paged: pack(place * SEGMENT_BYTES, size, COMPRESSED) | (PAGED if paged else 0),
    st.sampled_from([*range(SEGMENTS), SEGMENTS, (1 << 27) - 1]),
    st.integers(0, 8191),
    st.booleans(),
)


@pytest.fixture
def fd() -> Iterator[int]:
    descriptor = os.memfd_create("pool")
    yield descriptor
    os.close(descriptor)


def log_of(fd: int, live_bytes: array[int]) -> Log:
    log = Log(fd)
    log.bind(live_bytes, array("q", [0]) * len(live_bytes))
    return log


@given(st.lists(WORD, max_size=40), st.lists(st.integers(0, 20_000), min_size=SEGMENTS, max_size=SEGMENTS))
def test_letting_go(words: list[int], live: list[int]) -> None:
    live_bytes = array("q", live)
    log = log_of(-1, live_bytes)
    log.let_go(array("Q", words))
    emptied, paged = [], []
    for word in words:
        if word & PAGED:
            paged.append(word)
        elif (segment := place_of(word)) < SEGMENTS:
            live[segment] -= size_of(word)
            if not live[segment]:
                emptied.append(segment)
    assert list(live_bytes) == live and log.total_live_bytes == sum(live)
    assert log.take_back() == ((array("Q", paged), emptied) if paged or emptied else None)
    assert log.take_back() is None


def test_no_more_than_can_be_noted() -> None:
    live_bytes = array("q", [0])
    log, words = log_of(-1, live_bytes), array("Q", [PAGED]) * MOST_LET_GO
    with pytest.raises(ValueError, match="at once"):
        log.let_go(words + array("Q", [PAGED]))
    assert not log.has_let_go
    log.let_go(words)
    with pytest.raises(ValueError, match="at once"):
        log.let_go(array("Q", [1]))
    let_go = log.take_back()
    assert let_go is not None and len(let_go[0]) == MOST_LET_GO
    log.let_go(array("Q", [1]))


def test_the_sum_is_that_of_the_segments(fd: int) -> None:
    live_bytes = array("q", [100, 0, 0])
    log = log_of(fd, live_bytes)
    assert log.total_live_bytes == 100
    for spare, records in ((1, 1), (2, 300)):
        log.set_spare(spare)
        ends = array("Q", [(number + 1) * 4000 for number in range(records)][:262])
        assert log.append(bytes(ends[-1]), ends) is not None
        assert log.total_live_bytes == sum(live_bytes)
    assert live_bytes[1] and live_bytes[2]
    grown = live_bytes + array("q", [0, 50])
    log.bind(grown, array("q", [0]) * 5)
    assert log.total_live_bytes == sum(grown) == sum(live_bytes) + 50
