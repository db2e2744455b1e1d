"""Writes that wait behind those that are tried again: in turn, up to so many bytes, and forgotten when given up."""

from __future__ import annotations

import pytest

from blockstore.daemon.lane.parked_writes import ParkedWrite, ParkedWrites


def write(unique: int, size_bytes: int = 10) -> ParkedWrite:
    return ParkedWrite(unique, 1, 0, bytes(size_bytes))


def test_the_one_that_has_waited_longest_is_next() -> None:
    parked = ParkedWrites()
    assert all(parked.park(write(unique)) for unique in (5, 3, 9))
    assert (parked.count, parked.size_bytes) == (3, 30)
    assert [parked.take().unique for _ in range(3)] == [5, 3, 9]
    assert (parked.count, parked.size_bytes) == (0, 0)
    with pytest.raises(KeyError):
        parked.take()


def test_one_that_is_given_up_waits_no_more() -> None:
    parked = ParkedWrites()
    assert parked.park(write(1)) and parked.park(write(2))
    assert parked.give_up(1) and not parked.give_up(1) and not parked.give_up(7)
    assert (parked.count, parked.size_bytes) == (1, 10)
    assert parked.take().unique == 2


def test_data_beyond_the_limit_is_refused_and_counted() -> None:
    parked = ParkedWrites(limit_bytes=25)
    assert parked.park(write(1)) and parked.park(write(2)) and not parked.park(write(3))
    assert parked.refused == 1 and parked.count == 2
    assert parked.park(write(4, 5)), "one that fits is taken"
    assert parked.give_up(1) and parked.park(write(5)) and parked.refused == 1


def test_those_that_write_to_some_bytes_are_taken_in_their_order() -> None:
    parked = ParkedWrites()
    for unique, inode, offset in ((1, 5, 0), (2, 5, 10), (3, 6, 0), (4, 5, 5)):
        assert parked.park(ParkedWrite(unique, inode, offset, bytes(10)))
    assert [found.unique for found in parked.take_those(5, range(9, 10))] == [1, 4]
    assert parked.count == 2 and parked.size_bytes == 20
