"""Features: the same for the same block, mostly the same for a similar one, and nobody else's without the key."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from blockstore.store.features import FEATURES, NO_FEATURE, FeatureMaker, multipliers
from blockstore.store.geometry import BLOCK_BYTES, ZERO_BLOCK
from tests.store.material import near, noise, text

KEY = multipliers(1)


def one(block: bytes, seed: int = 1) -> set[int]:
    """The features of one block, as a set."""
    found = FeatureMaker().features([block], multipliers(seed))
    assert found.shape == (1, FEATURES) and found.dtype == np.uint32
    return set(found[0].tolist()) - {NO_FEATURE}


def test_a_zero_block_has_none() -> None:
    assert one(ZERO_BLOCK) == set()


def test_zeros_are_no_feature() -> None:
    block = bytearray(ZERO_BLOCK)
    block[2000:2064] = noise(1)[:64]
    alone = one(bytes(block))
    assert alone
    block[2064:] = bytes(BLOCK_BYTES - 2064)
    block[:2000] = bytes(2000)
    assert one(bytes(block)) == alone
    moved = bytes(800) + bytes(block[:-800])
    assert one(moved) == alone, "how many zeros stand where must not matter"


def test_repeated_content_counts_once() -> None:
    assert len(one(noise(1)[:8] * (BLOCK_BYTES // 8))) == 1
    assert 1 <= len(one(noise(1)[:16] * (BLOCK_BYTES // 16))) <= 2
    assert len(one(noise(1))) == FEATURES


def test_features_are_distinct_and_ascending() -> None:
    blocks = [noise(1), text(1), ZERO_BLOCK, noise(2)[:16] * (BLOCK_BYTES // 16)]
    for line in FeatureMaker().features(blocks, KEY).tolist():
        assert line == sorted(line)
        found = [feature for feature in line if feature != NO_FEATURE]
        assert len(found) == len(set(found))


@pytest.mark.parametrize("batch", (1, 3, 16))
def test_a_batch_gives_what_single_blocks_give(batch: int) -> None:
    blocks = [noise(1), ZERO_BLOCK, text(2), noise(1), near(text(2), 3), *map(text, range(40))]
    maker = FeatureMaker(batch)
    first, again = maker.features(blocks, KEY), maker.features(blocks, KEY)
    assert first.shape == (len(blocks), FEATURES)
    assert (first == again).all()
    for line, block in zip(first, blocks, strict=True):
        assert (line == FeatureMaker().features([block], KEY)[0]).all()
    assert (first[0] == first[3]).all()


def test_content_may_move_by_words() -> None:
    kept = [len(one(noise(seed)) & one(noise(seed)[320:] + noise(seed)[:320])) for seed in range(30)]
    assert min(kept) >= 1 and sum(kept) > 0.9 * FEATURES * len(kept)


@pytest.mark.parametrize("make", (noise, text))
def test_a_small_change_keeps_at_least_one(make: Callable[[int], bytes]) -> None:
    for changes in (1, 2, 4):
        kept = [bool(one(make(seed)) & one(near(make(seed), seed, changes))) for seed in range(100)]
        # A byte is in three of 510 windows: that four of them take all four minima is nearly impossible.
        assert sum(kept) >= 99


def test_different_blocks_share_none() -> None:
    seen: set[int] = set()
    for seed in range(200):
        found = one(noise(seed))
        assert not seen & found
        seen |= found


def test_another_seed_gives_other_features() -> None:
    for seed in range(20):
        assert not one(noise(seed), 1) & one(noise(seed), 2)
    assert (multipliers(5) == multipliers(5)).all() and (multipliers(5) != multipliers(6)).all()
    assert (multipliers(5) & np.uint64(1)).all()
