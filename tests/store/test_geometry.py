"""The `where` word: packing is the inverse of unpacking, and its fields do not touch each other."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from blockstore.store.geometry import (
    BLOCK_BYTES,
    BLOCK_SHIFT,
    COMPRESSED,
    DENSE,
    DENSE_PATCHED,
    ENCODING_MASK,
    FREE,
    OFFSET_SHIFT,
    PATCH_BITS,
    PATCHED,
    RAW,
    SEGMENT_BYTES,
    SEGMENT_SHIFT,
    SIZE_MASK,
    SIZE_SHIFT,
    WHERE_SEGMENT_SHIFT,
    ZERO_BLOCK,
    pack_where,
    unpack_where,
)

ENCODINGS = (RAW, COMPRESSED, PATCHED, DENSE, DENSE_PATCHED)


@given(st.integers(0, (1 << 48) - 1), st.integers(0, BLOCK_BYTES), st.sampled_from((FREE, *ENCODINGS)))
def test_where_round_trip(offset: int, size_bytes: int, encoding: int) -> None:
    where = pack_where(offset, size_bytes, encoding)
    assert 0 <= where < 1 << 64
    assert unpack_where(where) == (offset, size_bytes, encoding)
    assert where >> WHERE_SEGMENT_SHIFT == offset // SEGMENT_BYTES


def test_fields_fill_the_word_without_overlap() -> None:
    assert ENCODING_MASK < 1 << SIZE_SHIFT
    assert SIZE_MASK >= BLOCK_BYTES and SIZE_MASK << SIZE_SHIFT < 1 << OFFSET_SHIFT
    assert max(ENCODINGS) <= ENCODING_MASK and len(set(ENCODINGS)) == len(ENCODINGS)
    patches = [encoding for encoding in range(ENCODING_MASK + 1) if encoding & PATCH_BITS == PATCH_BITS]
    assert patches == [PATCHED, DENSE_PATCHED]
    assert pack_where(0, 0, FREE) == 0, "a free row must be all zeros"


def test_sizes_and_shifts_agree() -> None:
    assert 1 << BLOCK_SHIFT == BLOCK_BYTES == len(ZERO_BLOCK)
    assert 1 << SEGMENT_SHIFT == SEGMENT_BYTES
    assert not any(ZERO_BLOCK)
