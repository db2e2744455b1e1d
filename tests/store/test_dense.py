"""The codec of what is cold: what goes in comes out, and of damage comes an error or other bytes, never a crash."""

from __future__ import annotations

import contextlib
import random
from concurrent.futures import ThreadPoolExecutor

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from blockstore.store import codec, dense
from blockstore.store.codec import DecodeError, decode, digest
from blockstore.store.geometry import BLOCK_BYTES, DENSE, DENSE_PATCHED
from tests.store.material import near, noise, text
from tests.store.test_codec import BLOCKS, SEEDS


@given(BLOCKS)
def test_compress_round_trip(block: bytes) -> None:
    record = dense.compress(block)
    assert dense.decompress(record) == block == decode(memoryview(bytearray(record)), DENSE, b"")
    assert dense.compress(memoryview(bytearray(block))) == record


@given(BLOCKS, BLOCKS)
def test_patch_round_trip(block: bytes, reference: bytes) -> None:
    patch = dense.make_patch(block, reference)
    assert dense.apply_patch(patch, reference) == block == decode(memoryview(patch), DENSE_PATCHED, reference)


@given(SEEDS)
def test_dense_is_smaller_where_anything_can_be(seed: int) -> None:
    assert len(dense.compress(text(seed))) < 0.8 * len(codec.compress(text(seed)))
    assert len(dense.make_patch(near(text(seed), seed), text(seed))) < 256
    assert len(dense.compress(noise(seed))) > BLOCK_BYTES


@pytest.mark.parametrize("seed", range(4))
def test_damaged_record_is_never_taken_for_the_block(seed: int) -> None:
    block, reference, chance = near(text(seed), seed, 40), text(seed), random.Random(seed)
    encoding, whole = (
        (DENSE, dense.compress(block)) if seed % 2 else (DENSE_PATCHED, dense.make_patch(block, reference))
    )
    refused = changed = 0
    for _ in range(2000):
        record = bytearray(whole)
        for _ in range(chance.choice((1, 1, 2, 20))):
            record[chance.randrange(len(record))] ^= 1 << chance.randrange(8)
        try:
            found = decode(record, encoding, reference)
        except DecodeError:
            refused += 1
            continue
        assert len(found) == BLOCK_BYTES
        assert found == block or digest(found, 7) != digest(block, 7)
        changed += found != block
    assert refused and changed  # both ways of noticing were tried


@given(st.binary(max_size=BLOCK_BYTES), st.sampled_from((DENSE, DENSE_PATCHED)))
def test_garbage_is_refused_or_a_block(garbage: bytes, encoding: int) -> None:
    with contextlib.suppress(DecodeError):
        assert len(decode(garbage, encoding, text(1))) == BLOCK_BYTES


@pytest.mark.parametrize("encoding", (DENSE, DENSE_PATCHED))
def test_a_cut_or_lengthened_record_is_refused(encoding: int) -> None:
    block, reference = near(text(1), 1, 100), text(1)
    record = dense.compress(block) if encoding == DENSE else dense.make_patch(block, reference)
    for size in range(len(record)):
        with pytest.raises(DecodeError):
            decode(record[:size], encoding, reference)
    for more in (b"\0", b"\xff", record, bytes(BLOCK_BYTES)):
        with pytest.raises(DecodeError):
            decode(record + more, encoding, reference)


@pytest.mark.parametrize("size", (0, 1, 255, 256, BLOCK_BYTES - 1, BLOCK_BYTES + 1, 1 << 20))
def test_a_frame_of_another_size_is_refused(size: int) -> None:
    """Such a frame behind the header of ours: its blocks give more or less than they should."""
    frame = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters.from_level(
            3, format=zstandard.FORMAT_ZSTD1_MAGICLESS, write_content_size=False
        )
    ).compress(
        text(1)[:size] if size < BLOCK_BYTES else text(1) * (size // BLOCK_BYTES) + text(2)[: size % BLOCK_BYTES]
    )
    for headers in (1, 2, 3, 4, 5, 6):
        for encoding in (DENSE, DENSE_PATCHED):
            with pytest.raises(DecodeError):
                decode(frame[headers:], encoding, text(1))


def test_the_wrong_reference_is_noticed() -> None:
    block = near(text(1), 1)
    with contextlib.suppress(dense.DenseError):
        assert dense.apply_patch(dense.make_patch(block, text(1)), text(2)) != block


def test_threads_do_not_meet() -> None:
    """The tools let go of the interpreter's lock, so two threads in the same one would spoil both blocks."""

    def turn(seed: int) -> bool:
        return all(dense.decompress(dense.compress(text(seed + each))) == text(seed + each) for each in range(50))

    for seed in range(250):
        text(seed)
    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(turn, range(0, 200, 5)))


def test_the_stored_form_is_fixed() -> None:
    """What an older version has written is a frame behind these three bytes, whatever zstd writes by then."""
    block = bytes(range(256)) * 16
    frame = bytes.fromhex("60000f") + dense.compress(block)
    decompressor = zstandard.ZstdDecompressor(format=zstandard.FORMAT_ZSTD1_MAGICLESS)
    assert decompressor.decompress(frame, max_output_size=BLOCK_BYTES) == block
    assert zstandard.ZstdDecompressor().decompress(bytes.fromhex("28b52ffd") + frame) == block
