"""The codec: what goes in comes out, and damage is noticed by the decoder or by the digest, never passed on."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockstore.store.codec import DecodeError, apply_patch, compress, decompress, digest, make_patch
from blockstore.store.geometry import BLOCK_BYTES
from tests.store.material import half, near, noise, text

SEEDS = st.integers(0, 1000)
BLOCKS = st.one_of(
    st.builds(noise, SEEDS),
    st.builds(text, SEEDS),
    st.builds(half, SEEDS),
    st.builds(near, st.builds(text, SEEDS), SEEDS),
    st.binary(min_size=1, max_size=64).map(lambda piece: (piece * BLOCK_BYTES)[:BLOCK_BYTES]),
)


@given(BLOCKS)
def test_compress_round_trip(block: bytes) -> None:
    record = compress(block)
    assert decompress(record, BLOCK_BYTES) == block
    assert decompress(memoryview(bytearray(record)), BLOCK_BYTES) == block


@given(BLOCKS, BLOCKS)
def test_patch_round_trip(block: bytes, reference: bytes) -> None:
    patch = make_patch(block, reference)
    assert apply_patch(patch, reference) == block
    assert apply_patch(memoryview(bytearray(patch)), memoryview(reference)) == block


@given(BLOCKS, SEEDS)
def test_patch_against_a_near_copy_is_small(block: bytes, seed: int) -> None:
    assert len(make_patch(near(block, seed), block)) < 256


def test_text_compresses_and_noise_does_not() -> None:
    assert len(compress(text(1))) < 0.7 * BLOCK_BYTES
    assert len(compress(noise(1))) > BLOCK_BYTES


@given(BLOCKS, st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_digest_is_keyed(block: bytes, seed: int, other_seed: int) -> None:
    assert digest(block, seed) == digest(bytearray(block), seed) < 1 << 64
    if seed != other_seed:
        assert digest(block, seed) != digest(block, other_seed)


@pytest.mark.parametrize("seed", range(4))
def test_damaged_record_is_never_taken_for_the_block(seed: int) -> None:
    block, reference = near(text(seed), seed, 40), text(seed)
    key = digest(block, 7)
    chance = random.Random(seed)
    refused = changed = 0
    for _ in range(500):
        record = bytearray(compress(block) if seed % 2 else make_patch(block, reference))
        bit = chance.randrange(len(record) * 8)
        record[bit // 8] ^= 1 << bit % 8
        try:
            found = decompress(record, BLOCK_BYTES) if seed % 2 else apply_patch(record, reference)
        except DecodeError:
            refused += 1
            continue
        assert found == block or digest(found, 7) != key
        changed += found != block
    assert refused and changed  # both ways of noticing were tried


@pytest.mark.parametrize("keep", (0, 1, 100))
def test_cut_record_is_refused_or_gives_other_bytes(keep: int) -> None:
    try:
        found = decompress(compress(text(1))[:keep], BLOCK_BYTES)
    except DecodeError:
        return
    assert found != text(1)
