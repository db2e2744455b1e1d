"""The compiled codec: what goes in comes out, other implementations of LZ4, zstd and XXH3 agree, damage is refused.

That no decoder writes outside its block is seen by AddressSanitizer: `scripts/test --sanitize` runs this file.
"""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import lz4.block
import pytest
import xxhash
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from blockstore.plane.codec.codec import Codec, DecodeError, digest
from blockstore.store.state.geometry import BLOCK_BYTES, COMPRESSED, DENSE, DENSE_PATCHED, ENCODING_MASK, PATCHED, RAW
from tests.plane.sample_blocks import BLOCKS, SEEDS, of_programs
from tests.store import records
from tests.store.material import near, noise, text

CODEC = Codec()
FRAME_HEADER = bytes.fromhex("60000f")
ENCODERS: dict[int, Callable[[bytes, bytes], bytes]] = {
    COMPRESSED: lambda block, reference: CODEC.encode(block),
    PATCHED: CODEC.encode,
    DENSE: lambda block, reference: CODEC.encode_cold(block),
    DENSE_PATCHED: CODEC.encode_cold,
}
HARD_ENCODERS: dict[int, Callable[[bytes, bytes], bytes]] = {
    DENSE: lambda block, reference: CODEC.encode_cold(block, hard=True),
    DENSE_PATCHED: lambda block, reference: CODEC.encode_cold(block, reference, hard=True),
}
ENCODINGS = st.sampled_from(sorted(ENCODERS))


def decoded(record: bytes, encoding: int, reference: bytes) -> bytes:
    """With a reference only where the encoding has one."""
    return CODEC.decode(record, encoding, reference if encoding in (PATCHED, DENSE_PATCHED) else None)


def of_zstandard(block: bytes, reference: bytes | None, *, hard: bool) -> bytes:
    """The record that python-zstandard makes, of the level whose parameters the codec sets by hand."""
    parameters = zstandard.ZstdCompressionParameters.from_level(
        12 if hard else 5,
        source_size=BLOCK_BYTES,
        dict_size=BLOCK_BYTES if reference else 0,
        **({"search_log": 2, "target_length": 16} if hard else {}),
        format=zstandard.FORMAT_ZSTD1_MAGICLESS,
        write_content_size=True,
        write_checksum=False,
        write_dict_id=False,
    )
    dictionary = zstandard.ZstdCompressionDict(reference, zstandard.DICT_TYPE_RAWCONTENT) if reference else None
    frame = zstandard.ZstdCompressor(compression_params=parameters, dict_data=dictionary).compress(block)
    assert frame.startswith(FRAME_HEADER)
    return frame[len(FRAME_HEADER) :]


def of_lz4(block: bytes, reference: bytes | None) -> bytes:
    """The record that python-lz4 makes."""
    record: bytes = lz4.block.compress(block, store_size=False, dict=reference or b"")
    return record


@given(BLOCKS, BLOCKS, ENCODINGS)
def test_what_goes_in_comes_out(block: bytes, reference: bytes, encoding: int) -> None:
    for encoders in (ENCODERS, HARD_ENCODERS):
        if encoding in encoders and len(record := encoders[encoding](block, reference)) <= BLOCK_BYTES:
            assert decoded(record, encoding, reference) == block == records.decode(record, encoding, reference)


@given(BLOCKS, BLOCKS, ENCODINGS)
def test_what_others_encode_is_decoded(block: bytes, reference: bytes, encoding: int) -> None:
    against = reference if encoding in (PATCHED, DENSE_PATCHED) else None
    if encoding in (COMPRESSED, PATCHED):
        others = [of_lz4(block, against)]
    else:
        others = [of_zstandard(block, against, hard=hard) for hard in (False, True)]
    for record in others:
        if len(record) <= BLOCK_BYTES:
            assert CODEC.decode(record, encoding, against) == block


@given(st.binary(max_size=2 * BLOCK_BYTES), st.integers(0, 2**64 - 1))
def test_the_digest_is_xxh3(content: bytes, seed: int) -> None:
    assert digest(content, seed) == xxhash.xxh3_64_intdigest(content, seed)
    assert digest(memoryview(bytearray(content)), seed) == digest(content, seed)


@pytest.mark.parametrize("seed", (-1, 1 << 64))
def test_a_seed_has_64_bits(seed: int) -> None:
    with pytest.raises(OverflowError):
        digest(b"", seed)


@pytest.mark.parametrize("changes", (0, 3, 40))
def test_records_are_as_small_as_those_of_others(changes: int) -> None:
    """In sum over the blocks of programs, alone and against a copy in which some bytes are others."""
    blocks = of_programs()
    references = [near(block, number, changes) if changes else None for number, block in enumerate(blocks)]
    pairs = list(zip(blocks, references, strict=True))

    def total(encode: Callable[[bytes, bytes | None], bytes]) -> int:
        return sum(min(len(encode(*pair)), BLOCK_BYTES) for pair in pairs)

    assert total(CODEC.encode) <= 1.001 * total(of_lz4)
    for hard in (False, True):
        ours = total(lambda block, reference, hard=hard: CODEC.encode_cold(block, reference, hard=hard))  # type: ignore[misc]
        assert ours <= 1.001 * total(lambda block, reference, hard=hard: of_zstandard(block, reference, hard=hard))  # type: ignore[misc]


def test_hard_is_smaller_and_cold_is_smaller_than_hot() -> None:
    blocks = of_programs()
    hot, cold, hard = (
        sum(map(len, map(encode, blocks)))
        for encode in (CODEC.encode, CODEC.encode_cold, lambda block: CODEC.encode_cold(block, hard=True))
    )
    assert cold < 0.85 * hot and hard < 0.99 * cold


@given(SEEDS)
def test_a_patch_against_a_near_copy_is_small_and_noise_is_not(seed: int) -> None:
    for encode in (CODEC.encode, CODEC.encode_cold):
        assert len(encode(near(text(seed), seed), text(seed))) < 256
        assert len(encode(noise(seed))) > BLOCK_BYTES


@pytest.mark.parametrize("encoding", sorted(ENCODERS))
@pytest.mark.parametrize("seed", range(2))
def test_a_damaged_record_is_refused_or_has_another_digest(encoding: int, seed: int) -> None:
    block, reference, chance = near(text(seed), seed, 40), text(seed), random.Random(seed)
    whole = ENCODERS[encoding](block, reference)
    refused = changed = 0
    for _ in range(2000):
        record = bytearray(whole)
        for _ in range(chance.choice((1, 1, 2, 20))):
            record[chance.randrange(len(record))] ^= 1 << chance.randrange(8)
        try:
            found = decoded(bytes(record), encoding, reference)
        except DecodeError:
            refused += 1
            continue
        assert len(found) == BLOCK_BYTES
        assert found == block or digest(found, 7) != digest(block, 7)
        changed += found != block
    assert refused and changed  # both ways of noticing were tried


@given(st.binary(max_size=BLOCK_BYTES + 8), st.integers(0, ENCODING_MASK), st.booleans())
def test_garbage_is_refused_or_a_block(garbage: bytes, encoding: int, has_reference: bool) -> None:
    """Also an encoding that is none, and a patch without its reference."""
    with contextlib.suppress(DecodeError):
        assert len(CODEC.decode(garbage, encoding, text(1) if has_reference else None)) == BLOCK_BYTES
        assert encoding in {RAW, *ENCODERS} and (has_reference or encoding not in (PATCHED, DENSE_PATCHED))
        assert encoding != RAW or len(garbage) == BLOCK_BYTES


@pytest.mark.parametrize("encoding", range(-1, ENCODING_MASK + 2))
@pytest.mark.parametrize("size_bytes", (0, BLOCK_BYTES + 1, 1 << 20))
def test_a_record_is_neither_empty_nor_longer_than_a_block(encoding: int, size_bytes: int) -> None:
    with pytest.raises(DecodeError, match=f"encoding {encoding} with {size_bytes} bytes"):
        CODEC.decode(bytes(size_bytes), encoding, text(1))


@pytest.mark.parametrize("encoding", sorted(ENCODERS))
def test_a_cut_record_is_refused(encoding: int) -> None:
    block, reference = near(text(1), 1, 100), text(1)
    record = ENCODERS[encoding](block, reference)
    for size in range(len(record)):
        with pytest.raises(DecodeError):
            decoded(record[:size], encoding, reference)
    for more in (b"\0", b"\xff", record, bytes(BLOCK_BYTES)):
        with pytest.raises(DecodeError):
            decoded(record + more, encoding, reference)


@pytest.mark.parametrize("size", (0, 1, 255, 256, BLOCK_BYTES - 1, BLOCK_BYTES + 1, 1 << 20))
def test_a_frame_of_another_size_is_refused(size: int) -> None:
    """Such a frame behind the header of ours: its blocks give more or less than they should."""
    frame = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters.from_level(
            3, format=zstandard.FORMAT_ZSTD1_MAGICLESS, write_content_size=False
        )
    ).compress((text(1) * (size // BLOCK_BYTES + 1))[:size])
    for headers in range(1, 7):
        for encoding in (DENSE, DENSE_PATCHED):
            with pytest.raises(DecodeError):
                decoded(frame[headers:], encoding, text(1))


def test_after_a_refused_record_the_next_is_decoded() -> None:
    """A prefix that was given for the one must not be that of the other."""
    block, reference = near(text(1), 1, 100), text(1)
    record = CODEC.encode_cold(block)
    for damaged in (b"\xff" * 100, b"\0", CODEC.encode_cold(block, reference)[:-1]):
        with pytest.raises(DecodeError):
            CODEC.decode(damaged, DENSE_PATCHED, reference)
        assert CODEC.decode(record, DENSE) == block


def test_the_wrong_reference_is_noticed() -> None:
    block = near(text(1), 1)
    for encoding in (PATCHED, DENSE_PATCHED):
        record = ENCODERS[encoding](block, text(1))
        with contextlib.suppress(DecodeError):
            assert CODEC.decode(record, encoding, text(2)) != block


@pytest.mark.parametrize("size", (0, 1, BLOCK_BYTES - 1, BLOCK_BYTES + 1))
def test_blocks_and_references_of_other_sizes_are_refused(size: int) -> None:
    other, block = bytes(size), text(1)
    for encode in (CODEC.encode, CODEC.encode_cold):
        for arguments in ((other,), (other, block), (block, other)):
            with pytest.raises(ValueError, match=f"of {size} bytes; it must be 4096"):
                encode(*arguments)
    with pytest.raises(ValueError, match=f"a reference of {size} bytes"):
        CODEC.decode(CODEC.encode(block), PATCHED, other)
    block_in_buffer = bytearray(block)
    for _ in range(2):  # no view of it is left that would hold its size
        with pytest.raises(ValueError):
            CODEC.encode(block_in_buffer, other)
        CODEC.encode(block_in_buffer, block_in_buffer)
        block_in_buffer.append(0)
        block_in_buffer.pop()


def test_what_is_not_bytes_is_refused() -> None:
    for arguments in (("text",), (None,), (text(1), 7), (memoryview(text(1))[::2],)):
        with pytest.raises((TypeError, BufferError)):
            CODEC.encode(*arguments)


def test_threads_may_share_a_codec() -> None:
    """Its calls keep the interpreter's lock, so two threads are never in the same contexts."""

    def turn(first: int) -> bool:
        return all(
            CODEC.decode(CODEC.encode_cold(text(seed), text(seed + 1)), DENSE_PATCHED, text(seed + 1)) == text(seed)
            and CODEC.decode(CODEC.encode(text(seed), text(seed + 1)), PATCHED, text(seed + 1)) == text(seed)
            for seed in range(first, first + 50)
        )

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(turn, range(0, 200, 5)))


def test_the_stored_form_is_fixed() -> None:
    """What an older version has written is a frame behind these three bytes, whatever zstd writes by then."""
    block = bytes(range(256)) * 16
    frame = FRAME_HEADER + CODEC.encode_cold(block)
    decompressor = zstandard.ZstdDecompressor(format=zstandard.FORMAT_ZSTD1_MAGICLESS)
    assert decompressor.decompress(frame, max_output_size=BLOCK_BYTES) == block
    assert zstandard.ZstdDecompressor().decompress(bytes.fromhex("28b52ffd") + frame) == block


def test_a_codec_takes_less_than_a_megabyte() -> None:
    codec = Codec()
    assert sys.getsizeof(codec) < 160 << 10
    for hard in (False, True):
        for reference in (None, text(2)):
            codec.encode_cold(text(1), reference, hard=hard)
    assert sys.getsizeof(codec) < 700 << 10


def test_all_blocks_of_a_buffer_take_what_each_of_them_takes() -> None:
    codec, blocks = Codec(), [text(1), noise(1), text(2), text(1)]
    digests = 0
    for block in blocks:
        digests ^= digest(block, 5)
    assert codec.encode_all(b"".join(blocks), 5) == (digests, sum(len(codec.encode(block)) for block in blocks))
    assert codec.encode_all(b"", 5) == (0, 0)
    with pytest.raises(ValueError, match="whole blocks"):
        codec.encode_all(b"x" * 100, 5)
