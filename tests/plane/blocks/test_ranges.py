"""Blocks that become holes, or those of another range: against a list of entries and a count for each row."""

from __future__ import annotations

from array import array
from collections import Counter

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from blockstore.plane.blocks import ranges
from blockstore.store.state.geometry import (
    BLOCK_BYTES,
    DUE,
    DUE_CHECK,
    FIRST_ROW,
    ID_MASK,
    LOST_ENTRY,
    PATCHED,
    ZERO_BLOCK,
    ZERO_ENTRY,
)
from blockstore.store.state.home import MemoryHome
from blockstore.store.store import Store
from blockstore.store.volume import PAGE_ENTRIES, Volume
from tests.store.invariants import check_store
from tests.store.live import remembered_files
from tests.store.material import contents, encodings, near, noise, put, text

__all__ = ["remembered_files"]

LIMIT_BYTES = 64 << 20
BLOCKS = 2 * PAGE_ENTRIES + 100
TOO_MANY = 1 << 15

PLACES = st.one_of(st.integers(0, BLOCKS), st.sampled_from((0, PAGE_ENTRIES - 1, PAGE_ENTRIES, PAGE_ENTRIES + 1)))
COUNTS = st.one_of(st.integers(0, 8), st.integers(0, BLOCKS), st.just(PAGE_ENTRIES))
WHICH = st.integers(0, 1)

STRANGE = st.one_of(
    st.sampled_from((ZERO_ENTRY, LOST_ENTRY, LOST_ENTRY ^ 1 << 50, DUE | 7 * DUE_CHECK << 32, 1 << 63, ID_MASK)),
    st.integers(1, (1 << 64) - 1),
)
"""Entries that point at no row: of other kinds, and damaged ones."""


class RangesMachine(RuleBasedStateMachine):
    """Two volumes of one domain, and what their entries should be."""

    def __init__(self) -> None:
        super().__init__()
        self.store = Store(MemoryHome(), LIMIT_BYTES)
        self.volumes = [self.store.create_volume(number, 1) for number in (1, 2)]
        self.models = [[0] * BLOCKS, [0] * BLOCKS]
        for volume in self.volumes:
            volume.set_size(BLOCKS * BLOCK_BYTES)

    @rule(which=WHICH, first=PLACES, seeds=st.lists(st.integers(0, 30), min_size=1, max_size=40))
    def write(self, which: int, first: int, seeds: list[int]) -> None:
        """Blocks that are the same now and then, patches against some of them, and zeros."""
        seeds = seeds[: BLOCKS - first]
        kinds = (noise, text, lambda seed: near(text(seed), seed), lambda seed: ZERO_BLOCK)
        put(
            self.store, self.volumes[which], first * BLOCK_BYTES, b"".join(kinds[seed % 4](seed // 4) for seed in seeds)
        )
        for block in range(first, first + len(seeds)):
            self.models[which][block] = self.volumes[which].lookup(block)

    @rule(which=WHICH, first=PLACES, strange=st.lists(STRANGE, min_size=1, max_size=10))
    def put_strange(self, which: int, first: int, strange: list[int]) -> None:
        """Where there are holes: nothing has counted what is there otherwise."""
        volume, model = self.volumes[which], self.models[which]
        entries = [entry for entry in strange if not self.counts(entry)][: BLOCKS - first]
        if entries and not any(model[first : first + len(entries)]):
            volume.prepare(first, len(entries))
            volume.replace(first, array("Q", entries))
            model[first : first + len(entries)] = entries

    @rule(which=WHICH, first=PLACES, count=COUNTS)
    def discard(self, which: int, first: int, count: int) -> None:
        ranges.discard(self.store._commit, self.volumes[which].block_map, first, count)
        self.store.pool.take_back()
        end = min(first + count, BLOCKS)
        self.models[which][first:end] = [0] * (end - first)

    @rule(which=WHICH, other=WHICH, first=PLACES, to=PLACES, count=COUNTS)
    def clone(self, which: int, other: int, first: int, to: int, count: int) -> None:
        count = min(count, BLOCKS - to)
        if which == other and abs(first - to) < count:
            return
        source, target = self.volumes[which], self.volumes[other]
        entries = (self.models[which] + [0] * BLOCKS)[first : first + count]
        if count:
            target.prepare(to, count)
        ranges.clone(self.store._commit, source.block_map, first, target.block_map, to, count)
        self.store.pool.take_back()
        self.models[other][to : to + count] = entries

    @invariant()
    def entries_and_counts_are_as_modelled(self) -> None:
        rows, expected = self.store.rows, Counter[int]()
        for volume, model in zip(self.volumes, self.models, strict=True):
            assert volume.entries(0, BLOCKS).tolist() == model
            assert volume.touched_blocks == sum(map(bool, model))
            expected.update(entry & ID_MASK for entry in model if self.counts(entry))
        assert expected == {row: rows.count.items[row] for row in range(rows.next_row) if rows.count.items[row]}
        needed = {rows.reference.items[row] for row in expected if rows.where.items[row] & 7 == PATCHED}
        assert {row for row in range(FIRST_ROW, rows.next_row) if rows.where.items[row]} == expected.keys() | needed

    def counts(self, entry: int) -> bool:
        """Does it point at a row?"""
        row = entry & ID_MASK
        return FIRST_ROW <= row < self.store.rows.capacity and not (self.store.rows.digest.items[row] ^ entry) >> 32

    def teardown(self) -> None:
        for which in (0, 1):
            self.discard(which, 0, BLOCKS)
        self.entries_and_counts_are_as_modelled()
        check_store(self.store)
        assert self.store.rows.live == 0
        self.store.close()


TestRanges = RangesMachine.TestCase
TestRanges.settings = settings(
    max_examples=25, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)


@pytest.fixture
def store() -> Store:
    """An empty store in memory."""
    return Store(MemoryHome(), LIMIT_BYTES)


def books(store: Store) -> list[object]:
    rows = store.rows
    return [
        [volume.entries(0, BLOCKS) for volume in store.volumes.values()],
        [volume.touched_blocks for volume in store.volumes.values()],
        *[column.items[: rows.next_row].tolist() for column in (rows.where, rows.count, rows.dependents)],
        store.pool.segments.live_bytes.tolist(),
    ]


def written(store: Store, data: bytes) -> Volume:
    volume = store.create_volume(1 + len(store.volumes), 1)
    put(store, volume, 0, data)
    return volume


def test_the_last_patch_takes_its_reference_along(store: Store) -> None:
    volume = written(store, text(1))
    put(store, volume, BLOCK_BYTES, near(text(1), 1))
    assert PATCHED in encodings(store)
    ranges.discard(store._commit, volume.block_map, 0, 1)
    assert store.rows.live == 2, "the patch needs it"
    ranges.discard(store._commit, volume.block_map, 0, 2)
    assert store.rows.live == 0
    check_store(store)


def test_what_is_there_twice_in_the_end_was_there_all_the_time(store: Store) -> None:
    """A clone over what is the same already: counts go up before they go down, and no row is freed between."""
    volume, other = written(store, noise(1) + noise(2)), written(store, noise(1) + noise(2))
    rows = store.rows.free.numbers()
    ranges.clone(store._commit, volume.block_map, 0, other.block_map, 0, 2)
    assert store.rows.free.numbers() == rows and contents(store, other) == noise(1) + noise(2)
    check_store(store, decode=True)


def test_too_many_at_once_change_nothing(store: Store) -> None:
    volume = written(store, noise(1) + text(1))
    block_map, before = volume.block_map, books(store)
    volume.cover(TOO_MANY)
    volume.prepare(0, TOO_MANY)
    for count in (TOO_MANY, 1 << 63, (1 << 64) - 1):
        with pytest.raises(ValueError, match="at once"):
            ranges.discard(store._commit, block_map, 0, count)
        with pytest.raises(ValueError, match="at once"):
            ranges.clone(store._commit, block_map, 0, block_map, 1, count)
    assert books(store) == before
    ranges.discard(store._commit, block_map, 0, TOO_MANY - 1)
    assert store.rows.live == 0


def test_blocks_that_a_map_does_not_cover_are_refused_and_nothing_is_touched(store: Store) -> None:
    source, target = written(store, noise(1) + text(1)), written(store, noise(3))
    target.cover(3 * PAGE_ENTRIES)
    before = books(store)
    for to, count in ((4 * PAGE_ENTRIES, 1), (4 * PAGE_ENTRIES - 1, 2), (0, 5 * PAGE_ENTRIES), ((1 << 64) - 1, 2)):
        with pytest.raises(ValueError, match="no memory"):
            ranges.clone(store._commit, source.block_map, 0, target.block_map, to, count)
        with pytest.raises(ValueError, match="no memory"):
            ranges.replace(target.block_map, to, array("Q", [ZERO_ENTRY]) * count)
    ranges.clone(store._commit, source.block_map, 0, target.block_map, 1 << 60, 0)
    ranges.replace(target.block_map, 1 << 60, array("Q"))
    assert books(store) == before
    for first in (PAGE_ENTRIES, 3 * PAGE_ENTRIES, (1 << 64) - 1):
        ranges.discard(store._commit, target.block_map, first, 100)
        ranges.clear(target.block_map, first, (1 << 64) - 1)
    assert books(store) == before and target.table_bytes == 2 * 4096, "nothing was touched"


def test_clear_and_replace_leave_counts_alone(store: Store) -> None:
    volume = written(store, noise(1) + noise(2) + noise(3))
    entries, counts = volume.entries(0, 3), store.rows.count.items.tolist()
    ranges.clear(volume.block_map, 1, 2)
    assert volume.entries(0, 3).tolist() == [entries[0], 0, entries[2]] and volume.touched_blocks == 2
    ranges.clear(volume.block_map, 0, 1 << 40)
    assert volume.entries(0, 3).tolist() == [0, 0, 0] and volume.touched_blocks == 0
    volume.replace(0, entries)
    assert volume.entries(0, 3) == entries and volume.touched_blocks == 3
    assert store.rows.count.items.tolist() == counts
    check_store(store, decode=True)
