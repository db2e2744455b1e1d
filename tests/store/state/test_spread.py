"""Work in parts: all of it is done once, in any number of threads, and the results are in order."""

from __future__ import annotations

import os
import threading

import pytest

from blockstore.store.state.spread import MAXIMUM_THREADS, PART_ROWS, parts_of, share, spread


@pytest.mark.parametrize("total", (0, 1, PART_ROWS, PART_ROWS + 1, 5 * PART_ROWS - 1))
def test_parts_make_up_the_whole(total: int) -> None:
    parts = parts_of(total)
    assert [row for part in parts for row in part] == sorted(row for part in parts for row in part)
    assert sum(end - first for first, end in parts) == total and all(
        0 < end - first <= PART_ROWS for first, end in parts
    )
    assert share(lambda first, end: (first, end), total) == parts


def test_as_many_threads_as_cores() -> None:
    threads = min(MAXIMUM_THREADS, len(os.sched_getaffinity(0)))
    meeting = threading.Barrier(threads, timeout=60)  # which is passed only when all of them are at work
    assert spread(lambda number: (meeting.wait(), number)[1], [(number,) for number in range(threads)]) == list(
        range(threads)
    )


def test_one_core_starts_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert set(spread(threading.get_ident, [(), (), ()])) == {threading.get_ident()}


def test_what_fails_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        spread(lambda number: 1 // number, [(1,), (0,), (2,)])
