"""The decoder of verify and repair: what the data plane encodes comes out, and of damage an error or other bytes."""

from __future__ import annotations

import contextlib
import random
from concurrent.futures import ThreadPoolExecutor

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from blockstore.plane.codec import codec
from blockstore.plane.codec.codec import Codec
from blockstore.store.checks import verify
from blockstore.store.checks.cross_check import CrossCheckError, decode, digest
from blockstore.store.checks.verify import Verification
from blockstore.store.state.geometry import (
    BLOCK_BYTES,
    COMPRESSED,
    DENSE,
    DENSE_PATCHED,
    ENCODING_MASK,
    PATCH_BITS,
    PATCHED,
    RAW,
)
from blockstore.store.state.home import MemoryHome
from blockstore.store.store import Store
from tests.plane.sample_blocks import BLOCKS
from tests.store.material import near, noise, put, text

CODEC = Codec()
ENCODINGS = (COMPRESSED, PATCHED, DENSE, DENSE_PATCHED, RAW)


def record_of(block: bytes, encoding: int, reference: bytes) -> bytes:
    """As the data plane encodes it."""
    against = reference if encoding & PATCH_BITS == PATCH_BITS else None
    if encoding == RAW:
        return block
    return CODEC.encode_cold(block, against) if encoding in (DENSE, DENSE_PATCHED) else CODEC.encode(block, against)


@given(BLOCKS, BLOCKS, st.sampled_from(ENCODINGS), st.integers(0, 2**64 - 1))
def test_it_agrees_with_the_data_plane(block: bytes, reference: bytes, encoding: int, seed: int) -> None:
    record = record_of(block, encoding, reference)
    assert decode(record, encoding, reference) == block == decode(memoryview(bytearray(record)), encoding, reference)
    assert digest(block, seed) == codec.digest(block, seed)


@pytest.mark.parametrize("encoding", (COMPRESSED, PATCHED, DENSE, DENSE_PATCHED))
def test_damaged_record_is_never_taken_for_the_block(encoding: int) -> None:
    block, reference, chance = near(text(1), 1, 40), text(1), random.Random(encoding)
    whole = record_of(block, encoding, reference)
    refused = changed = 0
    for _ in range(2000):
        record = bytearray(whole)
        for _ in range(chance.choice((1, 1, 2, 20))):
            record[chance.randrange(len(record))] ^= 1 << chance.randrange(8)
        try:
            found = decode(record, encoding, reference)
        except CrossCheckError:
            refused += 1
            continue
        assert len(found) == BLOCK_BYTES
        assert found == block or digest(found, 7) != digest(block, 7)
        changed += found != block
    assert refused and changed  # both ways of noticing were tried


@given(st.binary(max_size=BLOCK_BYTES), st.integers(0, ENCODING_MASK))
def test_garbage_is_refused_or_a_block(garbage: bytes, encoding: int) -> None:
    with contextlib.suppress(CrossCheckError):
        assert len(decode(garbage, encoding, text(1))) == BLOCK_BYTES


@pytest.mark.parametrize("encoding", (DENSE, DENSE_PATCHED))
def test_a_cut_or_lengthened_record_is_refused(encoding: int) -> None:
    block, reference = near(text(1), 1, 100), text(1)
    record = record_of(block, encoding, reference)
    for size in range(len(record)):
        with pytest.raises(CrossCheckError):
            decode(record[:size], encoding, reference)
    for more in (b"\0", b"\xff", record, bytes(BLOCK_BYTES)):
        with pytest.raises(CrossCheckError):
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
            with pytest.raises(CrossCheckError):
                decode(frame[headers:], encoding, text(1))


def test_threads_do_not_meet() -> None:
    """The tools let go of the interpreter's lock, so two threads in the same one would spoil both blocks."""
    dense = [record_of(text(seed), DENSE, b"") for seed in range(250)]

    def turn(seed: int) -> bool:
        return all(decode(dense[seed + each], DENSE, b"") == text(seed + each) for each in range(50))

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(turn, range(0, 200, 5)))


def test_verify_does_not_ask_the_decoder_of_the_plane(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store(MemoryHome(), 64 << 20)
    volume, data = store.create_volume(1, 1), noise(1) + text(1) + near(text(1), 1) + text(2)
    put(store, volume, 0, data)
    result = Verification()
    list(verify.steps(store, result, repair=False))
    assert not result.found

    monkeypatch.setattr("blockstore.store.checks.repair.decode", lambda record, encoding, reference: bytes(BLOCK_BYTES))
    list(verify.steps(store, result, repair=False))
    assert sum(finding.kind == "record" for finding in result.findings) == store.rows.live == 4
    assert store.read(volume, 0, len(data)) == data
