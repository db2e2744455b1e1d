"""Encoding cold blocks anew: the record that stores least, by a model in Python, and only if it is worth it."""

from __future__ import annotations

import sys
import threading
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockstore.plane.codec.codec import Codec, digest
from blockstore.plane.codec.recompress import Recompressor
from blockstore.store.state.geometry import BLOCK_BYTES, COMPRESSED, DENSE, DENSE_PATCHED, PATCH_BITS, PATCHED, RAW
from tests.plane.sample_blocks import BLOCKS
from tests.store.material import near, noise, text

BATCH_BLOCKS, GAIN_BYTES, GAIN_SHARE, PATCH_GAIN_BYTES, ENOUGH_SHARE = 3, 32, 0.05, 40, 0.5
CODEC = Codec()


class Cold(NamedTuple):
    """One to encode, as store/moves/densify.py has them."""

    block: bytes
    where: int
    digest: int
    reference: bytes = b""
    base_digest: int = 0
    spared_bytes: int = 0
    seed: int = 7


def cold(block: bytes, size: int, encoding: int, reference: bytes = b"", spared_bytes: int = 0) -> Cold:
    """With digests that match."""
    return Cold(block, size << 3 | encoding, digest(block, 7), reference, digest(reference, 7), spared_bytes)


@pytest.fixture(scope="module")
def recompressor() -> Recompressor:
    return Recompressor(
        BATCH_BLOCKS, gain_bytes=GAIN_BYTES, patch_gain_bytes=PATCH_GAIN_BYTES, enough_share=ENOUGH_SHARE
    )


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
    return best if before - len(best[0]) >= max(GAIN_BYTES, GAIN_SHARE * before) else None


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


@given(st.lists(COLD, max_size=BATCH_BLOCKS), st.booleans())
def test_the_record_that_stores_least_is_kept(recompressor: Recompressor, batch: list[Cold], hard: bool) -> None:
    found = recompressor.encode(batch, hard=hard, gain_share=GAIN_SHARE)
    assert found == [model(cold, hard=hard) for cold in batch]


@pytest.mark.parametrize("hard", (False, True))
def test_what_is_damaged_is_left_alone(recompressor: Recompressor, hard: bool) -> None:
    whole = cold(text(1), BLOCK_BYTES, RAW, near(text(1), 1))
    damaged = whole._replace(digest=whole.digest ^ 1)
    other_reference = whole._replace(base_digest=whole.base_digest ^ 1)
    patch, nothing, alone = recompressor.encode([whole, damaged, other_reference], hard=hard, gain_share=GAIN_SHARE)
    assert patch is not None and patch[1] and len(patch[0]) < 256
    assert nothing is None
    assert alone == (CODEC.encode_cold(text(1), hard=hard), False)


def test_noise_is_left_alone(recompressor: Recompressor) -> None:
    assert recompressor.encode([cold(noise(1), BLOCK_BYTES, RAW)], hard=True, gain_share=0.0) == [None]


def test_batches_and_blocks_of_other_sizes_are_refused(recompressor: Recompressor) -> None:
    block = cold(text(1), BLOCK_BYTES, RAW)
    with pytest.raises(ValueError, match="a batch of 4 blocks; there is room for 3"):
        recompressor.encode([block] * 4, hard=False, gain_share=0.0)
    for wrong in (block._replace(block=text(1)[1:]), block._replace(reference=text(1) + b"\0")):
        with pytest.raises(ValueError, match=r"a block of \d+ bytes; it must be 4096"):
            recompressor.encode([block, wrong], hard=False, gain_share=0.0)
    with pytest.raises(ValueError, match="must have one"):
        Recompressor(0, gain_bytes=0, patch_gain_bytes=0, enough_share=0.5)
    assert recompressor.encode([block], hard=False, gain_share=0.0) != [None], "it is free again"


def test_nobody_else_gets_in(recompressor: Recompressor) -> None:
    class Nosy:
        """What reads this block is asked for another one meanwhile, as by another thread."""

        @property
        def where(self) -> int:
            with pytest.raises(RuntimeError, match="one thread at a time"):
                recompressor.encode([], hard=False, gain_share=0.0)
            raise KeyError("asked")

    with pytest.raises(KeyError, match="asked"):
        recompressor.encode([Nosy()], hard=False, gain_share=0.0)  # type: ignore[list-item]


def test_it_works_without_the_interpreters_lock(recompressor: Recompressor) -> None:
    """Another thread gets on, though nobody is made to give the lock up."""
    begun, went_on = threading.Event(), threading.Event()

    def other() -> None:
        begun.wait()
        went_on.set()

    thread = threading.Thread(target=other)
    thread.start()
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e6)
    try:
        begun.set()
        while not went_on.is_set():
            recompressor.encode([cold(text(1), BLOCK_BYTES, RAW)] * BATCH_BLOCKS, hard=True, gain_share=0.0)
    finally:
        sys.setswitchinterval(interval_s)
        thread.join()
