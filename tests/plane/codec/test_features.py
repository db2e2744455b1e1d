"""Features: bit by bit those of the model, the same for the same block, mostly the same for a similar one, and nobody
else's without the key."""

from __future__ import annotations

import ctypes
import subprocess
from array import array
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockstore import plane
from blockstore.plane.codec.features import FEATURES, NO_FEATURE, find_features, multipliers
from blockstore.store.state.geometry import BLOCK_BYTES, ZERO_BLOCK
from tests.plane.codec import features_model
from tests.store.material import near, noise, text

HEADER = Path(plane.__file__).parent / "codec" / "block_features.h"
SEEDS = st.integers(0, 2**64 - 1)
WORDS = st.sampled_from((0, 1, 1 << 32, 1 << 63, 2**64 - 1)) | st.integers(0, 2**64 - 1)


def lines(blocks: list[bytes], places: list[int], seed: int = 1) -> npt.NDArray[np.uint32]:
    """The features of the blocks at these places, as ingest asks for them."""
    found = np.full((len(places), FEATURES), 7, dtype=np.uint32)
    find_features(b"".join(blocks), np.array(places, dtype=np.int64), multipliers(seed), found)
    return found


def one(block: bytes, seed: int = 1) -> set[int]:
    """The features of one block, as a set."""
    return set(lines([block], [0], seed)[0].tolist()) - {NO_FEATURE}


@st.composite
def blocks(draw: st.DrawFn) -> bytes:
    """Blocks in which few words repeat, at any place, or all are random."""
    if draw(st.booleans()):
        return draw(st.randoms(use_true_random=False)).randbytes(BLOCK_BYTES)
    words = draw(st.dictionaries(st.integers(0, BLOCK_BYTES // 8 - 1), WORDS, max_size=40))
    block = array("Q", [draw(WORDS)]) * (BLOCK_BYTES // 8)
    for place, word in words.items():
        block[place] = word
    return block.tobytes()


@given(st.lists(blocks(), min_size=1, max_size=3), SEEDS)
def test_they_are_those_of_the_model(contents: list[bytes], seed: int) -> None:
    key = features_model.multipliers(seed)
    assert (np.array(multipliers(seed), dtype=np.uint32) == key).all()
    assert (lines(contents, list(range(len(contents))), seed) == features_model.features(b"".join(contents), key)).all()


@given(st.integers(1, 15), blocks(), SEEDS)
def test_a_block_may_lie_anywhere(skip: int, block: bytes, seed: int) -> None:
    found = np.zeros((1, FEATURES), dtype=np.uint32)
    data = memoryview(bytes(skip) + block)[skip:]
    find_features(data, np.zeros(1, dtype=np.int64), multipliers(seed), found)
    assert (found == lines([block], [0], seed)).all()


def test_processors_without_avx2_find_the_same(tmp_path: Path) -> None:
    library, source = tmp_path / "library.so", tmp_path / "source.c"
    function = "void by_any(const uint8_t* block, const uint32_t* key, uint32_t* features)"
    source.write_text(f'#include "{HEADER}"\n{function} {{ features_by_any(block, key, features); }}\n')
    subprocess.run(["cc", "-shared", "-fPIC", "-O3", "-o", library, source], check=True)
    by_any = ctypes.CDLL(str(library)).by_any
    key = (ctypes.c_uint32 * 7)(*multipliers(1))
    for block in (noise(1), text(1), ZERO_BLOCK, near(text(2), 1)):
        found = (ctypes.c_uint32 * FEATURES)()
        by_any(block, key, found)
        assert list(found) == lines([block], [0])[0].tolist()


def test_what_does_not_fit_is_refused() -> None:
    key, found = multipliers(1), np.zeros((1, FEATURES), dtype=np.uint32)
    for place in (-1, 2, 2**62):
        with pytest.raises(ValueError, match="there is no block"):
            find_features(bytes(3 * BLOCK_BYTES - 1), np.array([place]), key, found)
    for wrong_key, wrong_shape in ((key[:-1], (1, FEATURES)), (key, (1, FEATURES - 1)), (key, (2, FEATURES))):
        with pytest.raises(ValueError, match="multipliers"):
            find_features(ZERO_BLOCK, np.array([0]), wrong_key, np.zeros(wrong_shape, dtype=np.uint32))
    assert not found.any()


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


def test_many_give_what_single_blocks_give() -> None:
    blocks = [noise(1), ZERO_BLOCK, text(2), noise(1), near(text(2), 3), *map(text, range(40))]
    found = lines(blocks, list(range(len(blocks))))
    for line, block in zip(found, blocks, strict=True):
        assert (line == lines([block], [0])[0]).all()
    assert (found[0] == found[3]).all()
    assert (lines(blocks, [4, 2, 0]) == found[[4, 2, 0]]).all()


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
    assert multipliers(5) == multipliers(5) and not set(multipliers(5)) & set(multipliers(6))
    assert all(number & 1 for number in multipliers(5))
