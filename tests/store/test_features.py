"""Features: the same for the same block, mostly the same for a similar one, and nobody else's without the key."""

from __future__ import annotations

import numpy as np
import pytest

from blockstore.store.features import FEATURES, NO_FEATURE, ROW_BYTES, features, multipliers
from blockstore.store.geometry import BLOCK_BYTES, ZERO_BLOCK
from tests.store.material import near, noise, text

KEY = multipliers(1)


def one(block: bytes, seed: int = 1) -> set[int]:
    """The features of one block, as a set."""
    found = features(block, multipliers(seed))
    assert found.shape == (1, FEATURES) and found.dtype == np.uint32
    return set(found[0].tolist()) - {NO_FEATURE}


def test_a_zero_block_has_none() -> None:
    assert one(ZERO_BLOCK) == set()


def test_rows_of_zeros_are_no_feature() -> None:
    block = bytearray(ZERO_BLOCK)
    block[5 * ROW_BYTES] = 1
    assert len(one(bytes(block))) == 1
    block[9 * ROW_BYTES + 3] = 7
    assert len(one(bytes(block))) == 2


def test_repeated_rows_count_once() -> None:
    assert len(one(noise(1)[:ROW_BYTES] * (BLOCK_BYTES // ROW_BYTES))) == 1
    assert len(one(noise(1)[: 2 * ROW_BYTES] * (BLOCK_BYTES // ROW_BYTES // 2))) == 2
    assert len(one(noise(1))) == FEATURES


def test_a_batch_gives_what_single_blocks_give() -> None:
    blocks = [noise(1), ZERO_BLOCK, text(2), noise(1), near(text(2), 3)]
    batch = features(b"".join(blocks), KEY)
    assert batch.shape == (len(blocks), FEATURES)
    for line, block in zip(batch, blocks, strict=True):
        assert (line == features(block, KEY)[0]).all()
    assert (batch[0] == batch[3]).all()


def test_rows_may_move() -> None:
    block = noise(1)
    assert one(block) == one(block[10 * ROW_BYTES :] + block[: 10 * ROW_BYTES])


@pytest.mark.parametrize("make", (noise, text))
def test_a_small_change_keeps_at_least_one(make: object) -> None:
    assert callable(make)
    for seed in range(50):
        block: bytes = make(seed)
        for changes in range(1, 5):
            # k changed rows of 128 take k of the 4 minima at most, and only if each hits a different one.
            kept = one(block) & one(near(block, seed, changes))
            assert len(kept) >= FEATURES - changes
        assert one(block) & one(near(block, seed, 4)), "four single bytes took all four minima"


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
