"""The similarity index: what a plain table finds, hints survive growth, and what it proposes may be patched against."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockstore.errors import OutOfRoom
from blockstore.plane.codec.features import FEATURES, NO_FEATURE
from blockstore.plane.tables.similarity_index import FIRST_SLOTS, SLOTS_PER_ROW, SimilarityIndex
from blockstore.plane.tables.tables import Tables
from blockstore.store.state.geometry import COMPRESSED, DENSE_PATCHED, FIRST_ROW, FREE, PATCHED, RAW
from blockstore.store.state.home import MemoryHome
from blockstore.store.state.location import pack
from blockstore.store.state.mapping import MAXIMUM_INDEX_SLOTS
from blockstore.store.state.rows import MAXIMUM_DEPENDENTS, Rows
from blockstore.store.state.shared_array import SharedArray
from tests.store.columns import column

DOMAIN = 3


def some_features(count: int, seed: int = 1) -> npt.NDArray[np.uint32]:
    """Lines of features as random as real ones."""
    return np.random.default_rng(seed).integers(1, 2**32 - 1, (count, FEATURES), dtype=np.uint32)


def arrays() -> tuple[SharedArray, SharedArray]:
    """What an index begins with."""
    home = MemoryHome()
    return (
        SharedArray(home, "similarity-rows", "I", FIRST_SLOTS, most=MAXIMUM_INDEX_SLOTS),
        SharedArray(home, "similarity-tags", "B", FIRST_SLOTS, most=MAXIMUM_INDEX_SLOTS),
    )


def index_of(count: int, encoding: int = COMPRESSED) -> tuple[SimilarityIndex, Rows, npt.NDArray[np.uint32]]:
    """An empty index, and that many usable rows of DOMAIN."""
    tables = Tables()
    rows = Rows(MemoryHome(), tables)
    rows.reserve(count)
    numbers = np.asarray(rows.take(count))
    column(rows.where)[numbers] = pack(0, 100, encoding)
    column(rows.domain)[numbers] = DOMAIN
    column(rows.count)[numbers] = 1
    return SimilarityIndex(*arrays(), tables, MAXIMUM_DEPENDENTS), rows, numbers


def candidates(
    index: SimilarityIndex, lines: npt.NDArray[np.uint32], domain: int = DOMAIN
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """The same as arrays of numpy."""
    found, hints = index.candidates(lines, domain)
    return np.array(found), np.array(hints)


class Model:
    """The same without arithmetic on bits: each slot from FIRST_SLOTS on begins as a copy of the one that it was
    divided from."""

    def __init__(self) -> None:
        self.slots: list[tuple[int, int]] = [(0, 0)] * FIRST_SLOTS

    def grow(self, slots: int) -> None:
        half = FIRST_SLOTS
        while len(self.slots) < slots:
            while 2 * half <= len(self.slots):
                half *= 2
            self.slots.append(self.slots[len(self.slots) - half])

    def home(self, feature: int) -> int:
        length = FIRST_SLOTS
        while length < len(self.slots):
            length *= 2
        home = feature % length
        return home if home < len(self.slots) else home - length // 2

    def enter(self, features: list[int], row: int, digest: int) -> None:
        for feature in features:
            self.slots[self.home(feature)] = row, tag(feature, digest)

    def candidate(self, features: list[int], own: int, digests: dict[int, int]) -> tuple[int, int]:
        """The row with most hints, the first of several, and their number."""
        hints: Counter[int] = Counter()
        for feature in features:
            row, known = self.slots[self.home(feature)]
            if feature and row and row != own and known == tag(feature, digests[row]):
                hints[row] += 1
        return hints.most_common(1)[0] if hints else (0, 0)


def tag(feature: int, digest: int) -> int:
    """8 bits of all of a feature, and of the digest of a row that has it."""
    return (feature * 0x9E37_79B1 & 0xFFFF_FFFF) >> 24 ^ digest & 0xFF


LINES = st.lists(
    st.sampled_from((0, 1, FIRST_SLOTS, 2 * FIRST_SLOTS + 1, 3 * FIRST_SLOTS, 2**32 - 1)) | st.integers(0, 2**32 - 1),
    min_size=FEATURES,
    max_size=FEATURES,
)
KNOWN = st.integers(0, 15)
OPERATIONS = st.lists(
    st.tuples(st.just("enter"), LINES, KNOWN)
    | st.tuples(st.just("ask"), LINES, KNOWN)
    | st.tuples(st.just("ask the last"), LINES, KNOWN)
    | st.tuples(st.just("become another"), LINES, KNOWN)
    | st.tuples(st.just("grow"), LINES, st.integers(1, 40)),
    max_size=40,
)


@given(OPERATIONS)
def test_it_finds_what_a_plain_table_finds(operations: list[tuple[str, list[int], int]]) -> None:
    index, rows, numbers = index_of(16)
    model, last, entered = Model(), [0] * FEATURES, 5000
    for what, line, number in operations:
        row = int(numbers[number % len(numbers)])
        if what == "grow":
            index.reserve(number * 100, entered)
            entered += number * 100
            model.grow(index.slots)
        elif what == "become another":
            rows.digest.items[row] = line[0] | line[1] << 32
        elif what == "enter":
            index.enter(np.array([line], dtype=np.uint32), np.array([row], dtype=np.uint32))
            model.enter(line, row, rows.digest.items[row])
            last = line
        else:
            asked = last if what == "ask the last" else line
            digests = {int(each): rows.digest.items[int(each)] for each in numbers}
            for own in (0, row):
                found = index.candidates(
                    np.array([asked], dtype=np.uint32), DOMAIN, np.array([own], dtype=np.uint32) if own else None
                )
                assert (found[0][0], found[1][0]) == model.candidate(asked, own, digests)


def test_a_row_is_found_by_its_features() -> None:
    index, _, numbers = index_of(200, RAW)
    lines = some_features(200)
    index.enter(lines, numbers)
    found, hints = candidates(index, lines)
    assert found.shape == (200,)
    assert (found == numbers).mean() > 0.95  # the others lost slots to later rows
    assert hints.max() == FEATURES and (hints > 0).mean() > 0.95
    assert np.count_nonzero(candidates(index, some_features(200, seed=2))[0]) < 20


def test_one_common_feature_is_enough_and_most_votes_win() -> None:
    index, _, numbers = index_of(2)
    lines = some_features(2)
    index.enter(lines, numbers)
    for first, second, winner in ((1, 3, 1), (3, 1, 0), (2, 0, 0), (0, 2, 1)):
        nothing = [NO_FEATURE] * (FEATURES - first - second)
        mixed = [*lines[0, :first].tolist(), *nothing, *lines[1, FEATURES - second :].tolist()]
        found, hints = candidates(index, np.array([mixed], dtype=np.uint32))
        assert found.tolist() == [numbers[winner]] and hints.tolist() == [max(first, second)]
    alone = np.array([[NO_FEATURE, lines[0, 2], NO_FEATURE, NO_FEATURE]], dtype=np.uint32)
    assert [part.tolist() for part in candidates(index, alone)] == [[numbers[0]], [1]]


def test_no_feature_finds_nothing() -> None:
    index, _, numbers = index_of(1)
    nothing = np.full((1, FEATURES), NO_FEATURE, dtype=np.uint32)
    index.enter(nothing, numbers)
    assert [part.tolist() for part in candidates(index, nothing)] == [[0], [0]]


def test_doubling_loses_no_hint() -> None:
    index, _, numbers = index_of(2000)
    lines = some_features(2000)
    index.enter(lines, numbers)
    before, _ = candidates(index, lines)
    size_bytes = index.size_bytes
    for wanted in (20_000, 40_000, 100_000):
        index.reserve(wanted, wanted)
        assert index.slots >= SLOTS_PER_ROW * wanted
        assert (candidates(index, lines)[0] == before).all()
    assert np.count_nonzero(before) > 1800
    assert index.size_bytes > size_bytes


def test_only_rows_with_features_need_slots_and_no_more_than_live() -> None:
    index, _, numbers = index_of(100)
    size_bytes = index.size_bytes
    index.reserve(100, 10**9)
    for turn in range(100):  # rows that come and go
        index.enter(some_features(100, turn), numbers)
        index.reserve(100, 200)
    assert index.size_bytes == size_bytes
    index.reserve(100, 10**9)
    assert index.size_bytes > size_bytes, "ten thousand rows were entered"


def test_what_may_not_be_a_reference_is_no_candidate() -> None:
    index, rows, numbers = index_of(1)
    row, lines = int(numbers[0]), some_features(1)
    index.enter(lines, numbers)
    assert candidates(index, lines)[0].tolist() == [row]

    assert not candidates(index, lines, DOMAIN + 1)[0].any(), "a row of another domain"
    for encoding in (FREE, PATCHED, DENSE_PATCHED):
        rows.where.items[row] = pack(0, 100, encoding)
        assert not candidates(index, lines)[0].any()
    rows.where.items[row] = pack(0, 100, RAW)
    rows.count.items[row] = 0
    assert not candidates(index, lines)[0].any(), "a row that only patches need"
    rows.count.items[row] = 1
    rows.dependents.items[row] = MAXIMUM_DEPENDENTS
    assert not candidates(index, lines)[0].any(), "a row whose dependents cannot be counted"
    rows.dependents.items[row] = MAXIMUM_DEPENDENTS - 1
    assert candidates(index, lines)[0].tolist() == [row]


def test_the_tag_keeps_foreign_features_out() -> None:
    index, _, numbers = index_of(1)
    line = some_features(1)
    index.enter(line, numbers)
    slots = np.uint32(index.slots)
    passed = 0
    for turn in range(1, 2001):
        other = line + np.uint32(turn) * slots  # slots are a power of two: the same slot, another feature
        assert (other % slots == line % slots).all()
        passed += bool(candidates(index, other)[0].any())
    assert passed < 2000 * FEATURES / 256 * 2


def test_a_row_that_has_become_another_contents_is_no_candidate() -> None:
    """Patches were tried in vain against what had taken the place of a freed row: a fifth of a store's work."""
    index, rows, numbers = index_of(1000)
    lines = some_features(1000)
    column(rows.digest)[numbers] = np.random.default_rng(1).integers(0, 2**63, 1000, dtype=np.uint64)
    index.enter(lines, numbers)
    assert np.count_nonzero(candidates(index, lines)[0]) > 900
    column(rows.digest)[numbers] = np.random.default_rng(2).integers(0, 2**63, 1000, dtype=np.uint64)
    assert np.count_nonzero(candidates(index, lines)[0]) < 50


def test_a_slice_of_blocks_takes_growth_only_a_part_further() -> None:
    index, _, numbers = index_of(1000)
    lines = some_features(1000)
    index.enter(lines, numbers)
    found = candidates(index, lines)[0]
    live, sizes = FIRST_SLOTS // SLOTS_PER_ROW, [index.slots]
    while sizes[-1] < 64 * FIRST_SLOTS:
        index.enter(np.zeros((128, FEATURES), dtype=np.uint32), numbers[:128])
        index.reserve(128, live)
        live += 128
        sizes.append(index.slots)
        assert (candidates(index, lines)[0] == found)[lines.min(axis=1) > 0].mean() > 0.99
    steps = [after - before for before, after in pairwise(sizes)]
    assert max(steps) == 128 * 64, "8192 slots, 40 KiB"
    assert steps.count(0) > len(steps) / 4, "it rests between"


class Full(SharedArray):
    """Has no room for more."""

    def grow(self, capacity: int) -> None:
        if capacity > FIRST_SLOTS:
            raise OutOfRoom("no room")
        super().grow(capacity)


@pytest.mark.parametrize("full", (0, 1))
def test_without_room_it_stays_as_it_is(full: int) -> None:
    index, _, numbers = index_of(100)
    index.close()
    home, both = MemoryHome(), []
    for number, (name, code) in enumerate((("similarity-rows", "I"), ("similarity-tags", "B"))):
        kind = Full if number == full else SharedArray
        both.append(kind(home, name, code, FIRST_SLOTS, most=MAXIMUM_INDEX_SLOTS))  # type: ignore[arg-type]
    tables = Tables()
    rows = Rows(MemoryHome(), tables)
    index = SimilarityIndex(both[0], both[1], tables, MAXIMUM_DEPENDENTS)
    column(rows.where)[numbers] = pack(0, 100, RAW)
    column(rows.count)[numbers], column(rows.domain)[numbers] = 1, DOMAIN
    lines = some_features(100)
    index.enter(lines, numbers)
    before = candidates(index, lines)[0]
    assert np.count_nonzero(before) > 90
    for _ in range(3):
        with pytest.raises(OutOfRoom):
            index.reserve(10_000, 10_000)
        assert index.slots == FIRST_SLOTS and (candidates(index, lines)[0] == before).all()
    index.reserve(100, 100)


def test_what_does_not_fit_is_refused() -> None:
    index, rows, numbers = index_of(2)
    lines = some_features(2)
    for wrong in (lines[:1], lines[:, :3].copy()):
        with pytest.raises(ValueError):
            index.enter(wrong, numbers)
    with pytest.raises(ValueError, match="there is no row"):
        index.enter(lines, np.array([FIRST_ROW, rows.capacity], dtype=np.uint32))
    with pytest.raises(ValueError):
        index.candidates(lines, DOMAIN, numbers[:1])
    index.close()
    assert index.candidates(lines, DOMAIN)[0].tolist() == [0, 0] and not index.size_bytes
    with pytest.raises(ValueError, match="closed"):
        index.enter(lines, numbers)
