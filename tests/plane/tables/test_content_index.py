"""The content index: every live row is found from its digest at any moment, whatever was entered, freed and moved."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockstore.errors import OutOfRoom
from blockstore.plane.tables.content_index import FIRST_SLOTS, LARGEST_LOAD, MOST_LOAD, ContentIndex
from blockstore.plane.tables.tables import Tables
from blockstore.store.state.geometry import COMPRESSED, FIRST_ROW
from blockstore.store.state.home import MemoryHome
from blockstore.store.state.location import pack
from blockstore.store.state.rows import Rows
from blockstore.store.state.shared_array import SharedArray
from blockstore.store.store import Store
from tests.plane.tables.threads import in_small_ranges
from tests.store.columns import column
from tests.store.material import noise, put

WORD = pack(8, 8, COMPRESSED)
LARGEST_DIGEST = 2**64 - 1


class Full(SharedArray):
    """Slots on a file system that has no room for more than `room` of them."""

    room = 1 << 32

    def grow(self, capacity: int) -> None:
        if capacity > self.room:
            raise OutOfRoom("there is no room")
        super().grow(capacity)


class Indexed:
    """Rows and their index, used as ingest uses them."""

    def __init__(self) -> None:
        tables = Tables()
        self.rows = Rows(MemoryHome(), tables)
        self.array = Full(MemoryHome(), "content-index", "I", FIRST_SLOTS, most=1 << 32)
        self.index = ContentIndex(self.array, tables)

    def enter(self, digests: npt.NDArray[np.uint64], domain: int = 0) -> npt.NDArray[np.uint32]:
        """New rows with these digests."""
        self.rows.reserve(len(digests))
        self.index.reserve(len(digests), self.rows.live)
        rows = np.asarray(self.rows.take(len(digests)))
        column(self.rows.digest)[rows] = digests
        column(self.rows.domain)[rows] = domain
        column(self.rows.where)[rows] = WORD
        self.index.enter(digests, rows)
        return rows

    def free(self, rows: npt.NDArray[np.uint32]) -> None:
        self.rows.give_back(rows)

    def assert_all_found(self) -> None:
        """Each live row is found, and nothing else."""
        digest, domain = column(self.rows.digest), column(self.rows.domain)
        alike: dict[tuple[int, int], list[int]] = defaultdict(list)
        for row in np.flatnonzero(column(self.rows.where)).tolist():
            alike[int(digest[row]), int(domain[row])].append(row)
        for (key, of_domain), rows in alike.items():
            assert sorted(set(self.index.find(key, of_domain))) == rows


def random_digests(count: int, seed: int = 1) -> npt.NDArray[np.uint64]:
    return np.random.default_rng(seed).integers(0, 2**64, count, dtype=np.uint64)


@pytest.mark.parametrize("count", (0, 1, 5000, 30_000))
def test_rebuild_finds_all_and_grows(count: int) -> None:
    indexed = Indexed()
    digests = random_digests(count)
    indexed.rows.reserve(count)
    rows = np.asarray(indexed.rows.take(count))
    column(indexed.rows.digest)[rows], column(indexed.rows.where)[rows] = digests, WORD
    indexed.index.rebuild()
    indexed.assert_all_found()
    assert indexed.index.used == count <= MOST_LOAD * indexed.index.length
    assert indexed.index.size_bytes == 4 * indexed.array.capacity


def test_all_is_found_while_it_grows() -> None:
    indexed, seen = Indexed(), set()
    digests = random_digests(60_000)
    for start in range(0, len(digests), 100):
        indexed.enter(digests[start : start + 100])
        seen.add(indexed.index.is_growing)
        asked = np.concatenate((digests[: start + 100 : 7], digests[start + 100 :: 7]))
        assert indexed.index.found(asked, 0) == list(range(len(digests[: start + 100 : 7])))
        assert indexed.index.size_bytes <= 4 * max(FIRST_SLOTS, indexed.rows.live / 0.52 + 2048)
    indexed.assert_all_found()
    assert seen == {True, False} and indexed.index.used == len(digests)
    assert indexed.index.length > 60_000


def test_one_call_moves_a_bounded_part() -> None:
    indexed = Indexed()
    indexed.enter(random_digests(120_000))
    lengths, seed = {indexed.index.length}, 2
    while len(lengths) == 1 or indexed.index.is_growing:
        indexed.enter(random_digests(10, seed))
        lengths.add(indexed.index.length)
        seed += 1
    assert seed > 100, "a growth is spread over many calls"


@pytest.mark.parametrize("alike", (1, 40), ids=("all differ", "forty alike"))
def test_threads_rebuild_it_together(alike: int) -> None:
    indexed = Indexed()
    digests = np.repeat(random_digests(30_000 // alike), alike)
    rows = indexed.enter(np.random.default_rng(1).permutation(digests))
    indexed.free(rows[::7])
    for _ in range(3):
        column(indexed.array)[:] = 2**32 - 1
        indexed.index.rebuild(in_small_ranges)
        indexed.assert_all_found()
        assert indexed.index.used == indexed.rows.live == np.count_nonzero(column(indexed.array))


@pytest.mark.parametrize("key", (0, 1 << 63, LARGEST_DIGEST - 40))
def test_digests_that_are_close_together(key: int) -> None:
    indexed = Indexed()
    digests = np.arange(400, dtype=np.uint64) % np.uint64(40) + np.uint64(key)
    indexed.enter(digests)
    indexed.enter(random_digests(20_000))
    indexed.assert_all_found()


def test_more_alike_than_are_looked_at_are_left_out() -> None:
    indexed = Indexed()
    indexed.enter(np.full(3000, LARGEST_DIGEST, dtype=np.uint64))
    assert 1000 <= len(indexed.index.find(LARGEST_DIGEST, 0)) <= 1024
    indexed.enter(random_digests(20_000))
    indexed.index.rebuild()
    assert 1000 <= len(indexed.index.find(LARGEST_DIGEST, 0)) <= 1024
    assert indexed.index.find(LARGEST_DIGEST - 1, 0) == []


def test_domains_and_damaged_slots_are_told_apart() -> None:
    indexed = Indexed()
    one, other = indexed.enter(random_digests(1), domain=1), indexed.enter(random_digests(1), domain=2)
    digest = int(random_digests(1)[0])
    assert indexed.index.find(digest, 1) == one.tolist() and indexed.index.find(digest, 2) == other.tolist()
    assert indexed.index.find(digest, 3) == []
    column(indexed.array)[:] = 2**32 - 1
    assert indexed.index.find(digest, 1) == []
    indexed.index.rebuild()
    assert indexed.index.find(digest, 1) == one.tolist()


def test_without_room_it_grows_denser_and_then_says_so() -> None:
    indexed = Indexed()
    indexed.array.room = FIRST_SLOTS
    with pytest.raises(OutOfRoom, match="no room"):
        for seed in range(1000):
            indexed.enter(random_digests(100, seed))
    length = indexed.index.length
    assert MOST_LOAD * length < indexed.index.used <= LARGEST_LOAD * length
    indexed.assert_all_found()
    indexed.free(np.flatnonzero(column(indexed.rows.where))[::2].astype(np.uint32))
    indexed.enter(random_digests(100, 1000))
    assert indexed.index.used < MOST_LOAD * length, "what was freed makes room"
    indexed.assert_all_found()
    indexed.array.room = 1 << 32
    indexed.enter(random_digests(5000, 1001))
    indexed.assert_all_found()
    assert indexed.index.length > length


def test_what_is_freed_does_not_fill_the_index() -> None:
    indexed, seen = Indexed(), set()
    for seed in range(300):
        rows = indexed.enter(random_digests(300, seed))
        seen.add(indexed.index.is_growing)
        assert indexed.index.used <= MOST_LOAD * indexed.index.length
        if seed % 10:
            indexed.free(rows)
    assert seen == {True, False} and indexed.index.size_bytes <= 4 * (9300 / 0.52 + 2048)
    indexed.assert_all_found()


def test_nothing_is_found_after_close() -> None:
    indexed = Indexed()
    digests = random_digests(10)
    indexed.enter(digests)
    indexed.index.close()
    assert indexed.index.find(int(digests[0]), 0) == [] and indexed.index.found(digests, 0) == []
    indexed.index.enter(digests, np.arange(10, dtype=np.uint32))


@dataclass
class Step:
    """Enter `count` rows whose digests are of a kind, or free some."""

    kind: str
    count: int
    seed: int


STEPS = st.lists(
    st.builds(
        Step,
        st.sampled_from(("enter", "enter", "enter few digests", "enter again", "free", "rebuild")),
        st.integers(1, 1500),
        st.integers(0, 1 << 20),
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_it_agrees_with_a_dictionary(steps: list[Step]) -> None:
    indexed = Indexed()
    model: dict[int, tuple[int, int]] = {}
    """Row -> digest and domain."""
    known = random_digests(50)
    for step in steps:
        random = np.random.default_rng(step.seed)
        if step.kind == "rebuild":
            indexed.index.rebuild()
        elif step.kind == "free":
            rows = random.permutation(np.array(sorted(model), dtype=np.uint32))[: step.count]
            indexed.free(rows)
            for row in rows.tolist():
                del model[row]
        else:
            digests = random.integers(0, 2**64, step.count, dtype=np.uint64)
            if step.kind == "enter few digests":
                digests = (digests % np.uint64(8)) << np.uint64(61) | np.arange(
                    step.count, dtype=np.uint64
                ) >> np.uint64(2)
            elif step.kind == "enter again":
                digests = known[digests[:40] % np.uint64(len(known))]
            for row in indexed.enter(digests, step.seed % 2).tolist():
                model[row] = (int(indexed.rows.digest.items[row]), step.seed % 2)
        rows_of: dict[tuple[int, int], set[int]] = defaultdict(set)
        for row, key in model.items():
            rows_of[key].add(row)
        for (digest, domain), rows_alike in rows_of.items():
            assert set(indexed.index.find(digest, domain)) == rows_alike
            assert set(indexed.index.find(digest, 1 - domain)) == rows_of.get((digest, 1 - domain), set())
        assert indexed.index.used <= MOST_LOAD * indexed.index.length


def test_overwriting_for_ever_does_not_fill_the_index() -> None:
    store = Store(MemoryHome(), 64 << 20, patching=False)
    volume = store.create_volume(1, 1)
    for turn in range(300):
        put(store, volume, 0, b"".join(noise(turn * 64 + block)[:64] * 64 for block in range(64)))
        assert store.content.used <= MOST_LOAD * store.content.length
    assert store.rows.live == 64
    for row in np.flatnonzero(column(store.rows.where)).tolist():
        assert row >= FIRST_ROW
        assert row in store.content.find(store.rows.digest.items[row], store.rows.domain.items[row])
