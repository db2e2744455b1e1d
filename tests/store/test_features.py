"""Features: the same for the same block, mostly the same for a similar one, and nobody else's without the key."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from blockstore.store.features import FEATURES, NO_FEATURE, FeatureMaker, multipliers
from blockstore.store.geometry import BLOCK_BYTES, ZERO_BLOCK
from tests.store.material import near, noise, text


def lines(blocks: list[bytes], places: list[int], seed: int = 1, batch: int = 64) -> npt.NDArray[np.uint32]:
    """The features of the blocks at these places, as ingest asks for them."""
    found = FeatureMaker(batch).features(b"".join(blocks), np.array(places), multipliers(seed))
    assert found.shape == (len(places), FEATURES) and found.dtype == np.uint32
    return found


def one(block: bytes, seed: int = 1) -> set[int]:
    """The features of one block, as a set."""
    return set(lines([block], [0], seed)[0].tolist()) - {NO_FEATURE}


def test_a_zero_block_has_none() -> None:
    assert one(ZERO_BLOCK) == set()


def test_zeros_are_no_feature() -> None:
    block = bytes(2000) + noise(1)[:64] + bytes(BLOCK_BYTES - 2064)
    assert one(block)
    assert one(bytes(800) + block[:-800]) == one(block), "how many zeros stand where must not matter"


def test_repeated_content_gives_the_features_of_one_period() -> None:
    period = noise(1)[:32]
    shifted = period[16:] + period * (BLOCK_BYTES // 32 - 1) + period[:16]
    assert one(period * (BLOCK_BYTES // 32)) == one(shifted)
    assert len(one(noise(1))) == FEATURES


def test_a_batch_gives_what_single_blocks_give() -> None:
    blocks = [noise(1), ZERO_BLOCK, text(2), noise(1), near(text(2), 3), *map(text, range(40))]
    maker, key, places = FeatureMaker(64), multipliers(1), np.arange(len(blocks))
    first, again = (maker.features(b"".join(blocks), places, key) for _ in range(2))
    assert (first == again).all()
    for line, block in zip(first, blocks, strict=True):
        assert (line == lines([block], [0])[0]).all()
    assert (first[0] == first[3]).all()
    assert (lines(blocks, [4, 2, 0]) == first[[4, 2, 0]]).all()


def test_the_whole_batch_may_be_used() -> None:
    blocks = [text(seed) for seed in range(16)]
    assert (lines(blocks, list(range(16)), batch=16) == lines(blocks, list(range(16)))).all()


def test_content_may_move_by_words() -> None:
    kept = [len(one(noise(seed)) & one(noise(seed)[320:] + noise(seed)[:320])) for seed in range(30)]
    assert min(kept) >= 1 and sum(kept) > 0.9 * FEATURES * len(kept)


@pytest.mark.parametrize("make", (noise, text))
def test_a_small_change_keeps_at_least_one(make: Callable[[int], bytes]) -> None:
    for changes in (1, 2, 4):
        kept = [bool(one(make(seed)) & one(near(make(seed), seed, changes))) for seed in range(100)]
        # A byte is in three of 510 windows: that four of them take all four extremes is nearly impossible.
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
