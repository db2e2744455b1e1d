"""Encoding cold blocks anew: the record that stores least, by a model in Python, and only if it is worth it."""

from __future__ import annotations

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockstore.plane.codec.codec import Codec, digest
from blockstore.plane.codec.recompress import Recompressor
from blockstore.store.state.geometry import BLOCK_BYTES, COMPRESSED, DENSE, DENSE_PATCHED, PATCH_BITS, PATCHED, RAW
from tests.plane.sample_blocks import BLOCKS
from tests.store.material import near, noise, text

GAIN_BYTES, GAIN_SHARE, PATCH_GAIN_BYTES, ENOUGH_SHARE = 32, 0.05, 40, 0.5
CODEC = Codec()
SEED = 7


class Cold(NamedTuple):
    """A block, its record as it is, and what it may become a patch against."""

    block: bytes
    where: int
    digest: int
    reference: bytes | None = None
    reference_digest: int = 0
    spared_bytes: int = 0

    def encode(
        self, recompressor: Recompressor, *, hard: bool, gain_share: float = GAIN_SHARE
    ) -> tuple[bytes, bool] | None:
        """With the recompressor."""
        return recompressor.encode(
            self.block,
            self.where,
            self.digest,
            SEED,
            self.reference,
            self.reference_digest,
            spared_bytes=self.spared_bytes,
            hard=hard,
            gain_share=gain_share,
        )


def cold(block: bytes, size: int, encoding: int, reference: bytes | None = None, spared_bytes: int = 0) -> Cold:
    """With digests that match."""
    reference_digest = digest(reference, SEED) if reference is not None else 0
    return Cold(block, size << 3 | encoding, digest(block, SEED), reference, reference_digest, spared_bytes)


@pytest.fixture(scope="module")
def recompressor() -> Recompressor:
    return Recompressor(gain_bytes=GAIN_BYTES, patch_gain_bytes=PATCH_GAIN_BYTES, enough_share=ENOUGH_SHARE)


def model(cold: Cold, *, hard: bool) -> tuple[bytes, bool] | None:
    """What `encode` is to return."""
    size, encoding = cold.where >> 3, cold.where & 7
    was_patch = encoding & PATCH_BITS == PATCH_BITS
    costs: dict[tuple[bytes, bool], int] = {}
    if not was_patch or cold.spared_bytes:
        record = CODEC.encode_cold(cold.block, hard=hard)
        costs[record, False] = len(record)
    if cold.reference and (hard or encoding not in (DENSE, DENSE_PATCHED)):
        record = CODEC.encode_cold(cold.block, cold.reference, hard=hard)
        costs[record, True] = len(record) + (cold.spared_bytes if was_patch else PATCH_GAIN_BYTES)
        if costs[record, True] <= ENOUGH_SHARE * size:
            costs = {(record, True): 0}
    possible = [found for found in costs if len(found[0]) < BLOCK_BYTES]
    if not possible:
        return None
    best = min(possible, key=lambda found: costs[found])
    before = size + (cold.spared_bytes if best[1] != was_patch else 0)
    least = max(0 if encoding in (DENSE, DENSE_PATCHED) else GAIN_BYTES, GAIN_SHARE * before, 1)
    return best if before - len(best[0]) >= least else None


RELATED = st.builds(near, BLOCKS, st.integers(0, 9), st.sampled_from((1, 30, 200)))
COLD = st.builds(
    lambda block, size, encoding, reference, related, spared: cold(
        block,
        size,
        encoding,
        near(block, 1, related) if related else reference,
        spared if encoding & PATCH_BITS == PATCH_BITS else 0,
    ),
    st.one_of(BLOCKS, RELATED),
    st.integers(1, BLOCK_BYTES),
    st.sampled_from((RAW, COMPRESSED, DENSE, PATCHED, DENSE_PATCHED)),
    BLOCKS,
    st.sampled_from((0, 0, 1, 30, 200)),
    st.sampled_from((0, 0, 1, 1000, BLOCK_BYTES)),
)


@given(COLD, st.booleans())
def test_the_record_that_stores_least_is_kept(recompressor: Recompressor, cold: Cold, hard: bool) -> None:
    assert cold.encode(recompressor, hard=hard) == model(cold, hard=hard)


@pytest.mark.parametrize("hard", (False, True))
def test_what_is_damaged_is_left_alone(recompressor: Recompressor, hard: bool) -> None:
    whole = cold(text(1), BLOCK_BYTES, RAW, near(text(1), 1))
    patch = whole.encode(recompressor, hard=hard)
    assert patch is not None and patch[1] and len(patch[0]) < 256
    assert whole._replace(digest=whole.digest ^ 1).encode(recompressor, hard=hard) is None
    alone = whole._replace(reference_digest=whole.reference_digest ^ 1).encode(recompressor, hard=hard)
    assert alone == (CODEC.encode_cold(text(1), hard=hard), False)


def test_noise_is_left_alone(recompressor: Recompressor) -> None:
    assert cold(noise(1), BLOCK_BYTES, RAW).encode(recompressor, hard=True, gain_share=0.0) is None


def test_blocks_of_other_sizes_are_refused(recompressor: Recompressor) -> None:
    block = cold(text(1), BLOCK_BYTES, RAW)
    for wrong in (block._replace(block=text(1)[1:]), block._replace(reference=text(1) + b"\0")):
        with pytest.raises(ValueError, match=r"a block of \d+ bytes; it must be 4096"):
            wrong.encode(recompressor, hard=False)
    assert block.encode(recompressor, hard=False) is not None
