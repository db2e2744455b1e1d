"""The similarity index: hints survive growth, and what it proposes may always be patched against."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from blockstore.store.features import FEATURES, NO_FEATURE
from blockstore.store.geometry import COMPRESSED, DENSE_PATCHED, FREE, PATCHED, RAW, pack_where
from blockstore.store.home import MemoryHome
from blockstore.store.rows import MAXIMUM_DEPENDENTS, Rows
from blockstore.store.similarity_index import SLOTS_PER_ROW, SimilarityIndex

DOMAIN = 3


def some_features(count: int, seed: int = 1) -> npt.NDArray[np.uint32]:
    """Lines of features as random as real ones."""
    return np.random.default_rng(seed).integers(1, 2**32 - 1, (count, FEATURES), dtype=np.uint32)


def live_rows(count: int, encoding: int = COMPRESSED) -> tuple[Rows, npt.NDArray[np.uint32]]:
    """That many usable rows of DOMAIN."""
    rows = Rows(MemoryHome())
    rows.reserve(count)
    numbers = rows.take(count)
    rows.where.array[numbers] = pack_where(0, 100, encoding)
    rows.domain.array[numbers] = DOMAIN
    rows.count.array[numbers] = 1
    return rows, numbers


def test_a_row_is_found_by_its_features() -> None:
    index, (rows, numbers) = SimilarityIndex(MemoryHome()), live_rows(200, RAW)
    lines = some_features(200)
    index.enter(lines, numbers, rows)
    found, hints = index.candidates(lines, rows, DOMAIN)
    assert found.shape == (200,)
    assert (found == numbers).mean() > 0.95  # the others lost slots to later rows
    assert hints.max() == FEATURES and (hints > 0).mean() > 0.95
    assert np.count_nonzero(index.candidates(some_features(200, seed=2), rows, DOMAIN)[0]) < 20


def test_one_common_feature_is_enough_and_most_votes_win() -> None:
    index, (rows, numbers) = SimilarityIndex(MemoryHome()), live_rows(2)
    lines = some_features(2)
    index.enter(lines, numbers, rows)
    for first, second, winner in ((1, 3, 1), (3, 1, 0), (2, 0, 0), (0, 2, 1)):
        nothing = [NO_FEATURE] * (FEATURES - first - second)
        mixed = [*lines[0, :first].tolist(), *nothing, *lines[1, FEATURES - second :].tolist()]
        found, hints = index.candidates(np.array([mixed], dtype=np.uint32), rows, DOMAIN)
        assert found.tolist() == [numbers[winner]] and hints.tolist() == [max(first, second)]
    alone = np.array([[NO_FEATURE, lines[0, 2], NO_FEATURE, NO_FEATURE]], dtype=np.uint32)
    assert [part.tolist() for part in index.candidates(alone, rows, DOMAIN)] == [[numbers[0]], [1]]


def test_no_feature_finds_nothing() -> None:
    index, (rows, numbers) = SimilarityIndex(MemoryHome()), live_rows(1)
    nothing = np.full((1, FEATURES), NO_FEATURE, dtype=np.uint32)
    index.enter(nothing, numbers, rows)
    assert [part.tolist() for part in index.candidates(nothing, rows, DOMAIN)] == [[0], [0]]


def test_doubling_loses_no_hint() -> None:
    index, (rows, numbers) = SimilarityIndex(MemoryHome()), live_rows(2000)
    lines = some_features(2000)
    index.enter(lines, numbers, rows)
    before, _ = index.candidates(lines, rows, DOMAIN)
    size_bytes = index.size_bytes
    for wanted in (20_000, 40_000, 100_000):
        index.reserve(wanted, wanted)
        assert index._slots >= SLOTS_PER_ROW * wanted
        assert (index.candidates(lines, rows, DOMAIN)[0] == before).all()
    assert np.count_nonzero(before) > 1800
    assert index.size_bytes > size_bytes


def test_only_rows_with_features_need_slots_and_no_more_than_live() -> None:
    index, (rows, numbers) = SimilarityIndex(MemoryHome()), live_rows(100)
    size_bytes = index.size_bytes
    index.reserve(100, 10**9)
    for turn in range(100):  # rows that come and go
        index.enter(some_features(100, turn), numbers, rows)
        index.reserve(100, 200)
    assert index.size_bytes == size_bytes
    index.reserve(100, 10**9)
    assert index.size_bytes > size_bytes, "ten thousand rows were entered"


def test_what_may_not_be_a_reference_is_no_candidate() -> None:
    index, (rows, numbers) = SimilarityIndex(MemoryHome()), live_rows(1)
    row, lines = int(numbers[0]), some_features(1)
    index.enter(lines, numbers, rows)
    assert index.candidates(lines, rows, DOMAIN)[0].tolist() == [row]

    assert not index.candidates(lines, rows, DOMAIN + 1)[0].any(), "a row of another domain"
    for encoding in (FREE, PATCHED, DENSE_PATCHED):
        rows.where.items[row] = pack_where(0, 100, encoding)
        assert not index.candidates(lines, rows, DOMAIN)[0].any()
    rows.where.items[row] = pack_where(0, 100, RAW)
    rows.count.items[row] = 0
    assert not index.candidates(lines, rows, DOMAIN)[0].any(), "a row that only patches need"
    rows.count.items[row] = 1
    rows.dependents.items[row] = MAXIMUM_DEPENDENTS
    assert not index.candidates(lines, rows, DOMAIN)[0].any(), "a row whose dependents cannot be counted"
    rows.dependents.items[row] = MAXIMUM_DEPENDENTS - 1
    assert index.candidates(lines, rows, DOMAIN)[0].tolist() == [row]


def test_the_tag_keeps_foreign_features_out() -> None:
    index, (rows, numbers) = SimilarityIndex(MemoryHome()), live_rows(1)
    line = some_features(1)
    index.enter(line, numbers, rows)
    slots = np.uint32(index._slots)
    passed = 0
    for turn in range(1, 2001):
        other = line + np.uint32(turn) * slots  # slots are a power of two: the same slot, another feature
        assert (other % slots == line % slots).all()
        passed += bool(index.candidates(other, rows, DOMAIN)[0].any())
    assert passed < 2000 * FEATURES / 256 * 2


def test_a_row_that_has_become_another_contents_is_no_candidate() -> None:
    """Patches were tried in vain against what had taken the place of a freed row: a fifth of a store's work."""
    index, (rows, numbers) = SimilarityIndex(MemoryHome()), live_rows(1000)
    lines = some_features(1000)
    rows.digest.array[numbers] = np.random.default_rng(1).integers(0, 2**63, 1000, dtype=np.uint64)
    index.enter(lines, numbers, rows)
    assert np.count_nonzero(index.candidates(lines, rows, DOMAIN)[0]) > 900
    rows.digest.array[numbers] = np.random.default_rng(2).integers(0, 2**63, 1000, dtype=np.uint64)
    assert np.count_nonzero(index.candidates(lines, rows, DOMAIN)[0]) < 50
