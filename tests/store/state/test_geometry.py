"""Sizes and codes of the stored format agree with each other."""

from __future__ import annotations

from blockstore.store.state.geometry import (
    BLOCK_BYTES,
    BLOCK_SHIFT,
    COMPRESSED,
    DENSE,
    DENSE_FIRST,
    DENSE_PATCHED,
    DENSE_SECOND,
    ENCODING_MASK,
    OFFSET_SHIFT,
    PATCH_BITS,
    PATCHED,
    RAW,
    SEGMENT_BYTES,
    SEGMENT_SHIFT,
    SIZE_MASK,
    SIZE_SHIFT,
    ZERO_BLOCK,
)

ENCODINGS = (RAW, COMPRESSED, PATCHED, DENSE, DENSE_FIRST, DENSE_SECOND, DENSE_PATCHED)


def test_fields_fill_the_word_without_overlap() -> None:
    assert ENCODING_MASK < 1 << SIZE_SHIFT
    assert SIZE_MASK >= BLOCK_BYTES and SIZE_MASK << SIZE_SHIFT < 1 << OFFSET_SHIFT
    assert max(ENCODINGS) <= ENCODING_MASK and len(set(ENCODINGS)) == len(ENCODINGS)
    patches = [encoding for encoding in range(ENCODING_MASK + 1) if encoding & PATCH_BITS == PATCH_BITS]
    assert patches == [PATCHED, DENSE_PATCHED]


def test_sizes_and_shifts_agree() -> None:
    assert 1 << BLOCK_SHIFT == BLOCK_BYTES == len(ZERO_BLOCK)
    assert 1 << SEGMENT_SHIFT == SEGMENT_BYTES
    assert not any(ZERO_BLOCK)
