"""Counts that several threads make anew are those of a model with numpy, whatever the tables hold."""

from __future__ import annotations

from array import array
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockstore.plane.tables.block_map import BlockMap
from blockstore.plane.tables.recount import (
    count_dependents,
    count_entries,
    count_records,
    free_unneeded,
    list_free,
    list_unused,
    set_counts,
)
from blockstore.plane.tables.soundness import Places, judge_entries
from blockstore.plane.tables.tables import Tables
from blockstore.store.remote.arrivals import entry_of
from blockstore.store.state.geometry import COMPRESSED, FIRST_ROW, LOST_ENTRY, PATCHED, RAW, ZERO_ENTRY
from blockstore.store.state.home import MemoryHome
from blockstore.store.state.location import pack, size_of
from blockstore.store.state.rows import Rows
from tests.plane.tables.threads import RANGE, in_small_ranges
from tests.store.columns import column

Words = npt.NDArray[np.uint64]

SEGMENTS = 64
PAGE_ENTRIES = 512
PIECE_BYTES = np.array([1 << 20, 1 << 20, 5000], dtype=np.int64)


def places() -> Places:
    return Places(SEGMENTS, PIECE_BYTES, 10)


class Filled:
    """Rows of which a third are patches, a tenth are free, and some name places and references that cannot be."""

    def __init__(self, seed: int, count: int = 3000) -> None:
        random = np.random.default_rng(seed)
        self.tables = Tables()
        self.rows = Rows(MemoryHome(), self.tables)
        self.rows.reserve(count)
        ids = np.asarray(self.rows.take(count))
        column(self.rows.digest)[ids] = random.integers(0, 1 << 64, count, dtype=np.uint64)
        place = random.choice([*range(SEGMENTS), SEGMENTS, 1 << 27, (1 << 27) + 1, (1 << 27) + 3], count)
        encoding = random.choice([COMPRESSED, COMPRESSED, RAW, PATCHED], count)
        where = [
            pack(int(at) << 20, 4096 if kind == RAW else 900, int(kind))
            for at, kind in zip(place, encoding, strict=True)
        ]
        column(self.rows.where)[ids] = where
        column(self.rows.where)[ids[random.random(count) < 0.1]] = 0
        column(self.rows.reference)[ids] = random.choice(ids, count)
        column(self.rows.reference)[random.choice(ids, 20)] = self.rows.capacity + 5
        self.entries = self._map(random, ids)
        self.pages = bytearray(random.choice([0, 1, 1, 1], len(self.entries) // PAGE_ENTRIES).astype(np.uint8))

    def _map(self, random: np.random.Generator, ids: npt.NDArray[np.uint32]) -> Words:
        """Points at half of the rows, at no row, and at wrong ones."""
        rows = random.choice(ids[: len(ids) // 2], 8 * PAGE_ENTRIES).astype(np.uint64)
        entries = column(self.rows.digest)[rows] & np.uint64(0xFFFFFFFF << 32) | rows
        for mark in (0, ZERO_ENTRY, LOST_ENTRY, entry_of(3), entry_of(10), 2**64 - 1):
            entries[random.choice(len(entries), 50)] = mark
        entries[random.choice(len(entries), 50)] ^= np.uint64(1 << 40)
        return np.asarray(entries, dtype=np.uint64)


@pytest.mark.parametrize("seed", range(3))
def test_entries(seed: int) -> None:
    filled, block_map = Filled(seed), BlockMap()
    block_map.bind(filled.entries, filled.pages)
    capacity, end = filled.rows.capacity, len(filled.entries) - 100
    counts = np.zeros(capacity, dtype=np.uint32)

    found = in_small_ranges(
        lambda first, stop: count_entries(filled.tables, places(), block_map, first, min(stop, end), counts), end
    )

    entries = filled.entries[:end][np.repeat(np.frombuffer(filled.pages, np.uint8), PAGE_ENTRIES)[:end] == 1]
    sound = np.empty(len(entries), dtype=np.uint8)
    judge_entries(filled.tables, places(), entries, sound)
    good = entries[sound == 1]
    expected = np.bincount((good & np.uint64(0xFFFFFFFF)).astype(np.int64), minlength=capacity)
    expected[:FIRST_ROW] = 0
    assert counts.tolist() == expected.tolist() and counts.max() > 1
    assert np.sum(found, axis=0).tolist() == [
        np.count_nonzero(entries),
        np.count_nonzero(entries == LOST_ENTRY),
        np.count_nonzero(entries == entry_of(3)),
        np.count_nonzero(sound == 0),
    ]
    assert 0 < np.count_nonzero(sound == 0) < len(entries) / 2


def test_a_map_ends_where_it_ends() -> None:
    filled, block_map = Filled(1), BlockMap()
    counts = np.zeros(filled.rows.capacity, dtype=np.uint32)
    assert count_entries(filled.tables, places(), block_map, 0, 1 << 40, counts) == (0, 0, 0, 0)
    block_map.bind(filled.entries, bytearray(b"\1\1"))
    touched, *_ = count_entries(filled.tables, places(), block_map, 0, 1 << 40, counts)
    assert touched == np.count_nonzero(filled.entries[: 2 * PAGE_ENTRIES])
    with pytest.raises(ValueError, match="counts for"):
        count_entries(filled.tables, places(), block_map, 0, 1, counts[:-1])
    with pytest.raises(ValueError, match="counts for"):
        set_counts(filled.tables, counts[:-1], 0, 1)


@pytest.mark.parametrize("seed", range(3))
def test_rows(seed: int) -> None:
    filled = Filled(seed)
    rows, tables, capacity = filled.rows, filled.tables, filled.rows.capacity
    counts = np.random.default_rng(seed).choice(np.array([0, 1, 5], dtype=np.uint32), capacity)
    column(rows.count)[:], column(rows.dependents)[:] = 77, 88  # what a killed process left

    where, reference = column(rows.where).copy(), column(rows.reference).astype(np.int64)
    expected = counts.copy()
    expected[:FIRST_ROW] = 0
    where[(expected == 0) & (where & np.uint64(3) == 3)] = 0
    references = reference[where & np.uint64(3) == 3]
    dependents = np.bincount(references[(references >= FIRST_ROW) & (references < capacity)], minlength=capacity)
    where[(expected == 0) & (dependents == 0)] = 0

    in_small_ranges(lambda first, end: set_counts(tables, counts, first, end), capacity)
    in_small_ranges(lambda first, end: count_dependents(tables, first, end), capacity)
    in_use = in_small_ranges(lambda first, end: free_unneeded(tables, first, end), capacity)

    assert column(rows.count).tolist() == expected.tolist() and column(rows.dependents).tolist() == dependents.tolist()
    assert (
        column(rows.where).tolist() == where.tolist()
        and (where == 0).sum() > (column(filled.rows.where)[4:] == 0).sum()
    )
    assert sum(used for used, _ in in_use) == np.count_nonzero(where)
    last = int(np.flatnonzero(where)[-1])
    assert max(behind for _, behind in in_use) == last + 1

    free = np.zeros(int((where[FIRST_ROW:last] == 0).sum()), dtype=np.uint32)
    before = {first: int((where[FIRST_ROW : max(first, FIRST_ROW)] == 0).sum()) for first in range(0, last, RANGE)}
    in_small_ranges(lambda first, end: list_free(tables, first, min(end, last), before[first], free), last)
    assert free.tolist() == (np.flatnonzero(where[FIRST_ROW:last] == 0) + FIRST_ROW)[::-1].tolist()
    list_free(tables, 0, 1 << 40, 0, free[:3])  # no further than there is room
    list_free(tables, 0, 1 << 40, 1 << 40, free)


def test_records() -> None:
    where = column(Filled(5).rows.where)
    segments, pieces = np.zeros(SEGMENTS, dtype=np.int64), np.zeros(len(PIECE_BYTES), dtype=np.int64)
    in_small_ranges(lambda first, end: count_records(where, first, end, segments, pieces), len(where))
    at, sizes = (where >> np.uint64(36)).astype(np.int64), np.array([size_of(word) for word in where.tolist()])
    assert segments.tolist() == [int(sizes[at == segment].sum()) for segment in range(SEGMENTS)]
    assert pieces.tolist() == [int(sizes[at == (1 << 27) + piece].sum()) for piece in range(len(PIECE_BYTES))]
    assert segments.all() and pieces[:2].all() and not pieces[2]


@given(st.lists(st.sampled_from([0, 0, 5, -5])))
def test_segments(live: list[int]) -> None:
    has_memory = bytearray(b"\7") * len(live)
    unused, runs = list_unused(array("q", live), has_memory)
    assert list(has_memory) == [live_bytes > 0 for live_bytes in live]
    assert list(unused) == [segment for segment in reversed(range(len(live))) if live[segment] <= 0]
    assert [segment for first, end in runs for segment in range(first, end)] == list(reversed(unused))
    assert all(first < end for first, end in runs)
    assert all(end < first for (_, end), (first, _) in pairwise(runs))
    with pytest.raises(ValueError, match="answers for"):
        list_unused(array("q", live), has_memory + b"\0")
