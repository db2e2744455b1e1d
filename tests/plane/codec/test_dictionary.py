"""Dictionaries: what they are trained to, that records made with them decode, also by zstd itself, and damage."""

from __future__ import annotations

import random
import sys
import threading

import pytest
import zstandard

from blockstore.plane.codec.codec import Codec, DecodeError
from blockstore.plane.codec.dictionary import DICTIONARY_BYTES, Dictionary, DictionaryEncoder, train
from blockstore.store.state.geometry import BLOCK_BYTES, DENSE, DENSE_FIRST, DENSE_PATCHED, DENSE_SECOND
from tests.store.material import near, noise, text

CODEC = Codec()
TRAINED = train(b"".join(map(text, range(300))), 16 << 10) or b""
HARD = pytest.mark.parametrize("hard", (False, True), ids=("", "hard"))


def encoder_of(content: bytes = TRAINED, *, hard: bool = False) -> DictionaryEncoder:
    return Dictionary(content).encoder(0, hard=hard)


def test_training() -> None:
    assert 1000 < len(TRAINED) <= 16 << 10
    assert train(b"".join(map(text, range(300))), 16 << 10) == TRAINED, "the same blocks make the same dictionary"
    larger = train(b"".join(map(text, range(600))), DICTIONARY_BYTES)
    assert larger is not None and len(TRAINED) < len(larger) <= DICTIONARY_BYTES
    assert train(b"", 16 << 10) is None and train(noise(1), 16 << 10) is None
    with pytest.raises(ValueError, match="no whole blocks"):
        train(b"x", 16 << 10)


def test_what_is_no_dictionary() -> None:
    for content in (b"", b"x", text(1), TRAINED[:100]):
        with pytest.raises(ValueError, match="no dictionary"):
            Dictionary(content)
    dictionary = Dictionary(bytearray(TRAINED))
    assert dictionary.content() == TRAINED and dictionary.size_bytes == len(TRAINED)
    assert len(TRAINED) < sys.getsizeof(dictionary) < len(TRAINED) + 40_000
    encoder = dictionary.encoder(1, hard=True)
    assert encoder.slot == 1 and encoder.dictionary is dictionary and sys.getsizeof(encoder) > 4 * len(TRAINED)


@HARD
def test_nothing_is_allocated_for_more_than_the_first_blocks(hard: bool) -> None:
    """A thread at idle priority encodes with this, and must not wait for the heap (plane/moves/cold_encoders.pyi)."""
    encoder, codec = encoder_of(hard=hard), Codec()
    codec.encode_cold(text(1), text(2), hard=hard)
    codec.encode_cold(text(1), hard=hard, encoder=encoder)
    before = sys.getsizeof(codec)
    for seed in range(300):  # zstd gives room back that it has not needed 128 times in a row (ZSTD_WORKSPACETOOLARGE)
        codec.encode_cold(text(seed), near(text(seed), seed), hard=hard)
        codec.encode_cold(noise(seed), hard=hard)
    for seed in range(300):
        codec.encode_cold(text(seed), hard=hard, encoder=encoder)
        codec.encode_cold(noise(seed), hard=hard, encoder=encoder)
    assert sys.getsizeof(codec) == before


@HARD
def test_records_are_smaller_and_decode(hard: bool) -> None:
    encoder, with_it, without = encoder_of(hard=hard), 0, 0
    for seed in range(1000, 1050):
        for block in (text(seed), noise(seed), bytes(BLOCK_BYTES), near(text(seed), seed, 100)):
            record = CODEC.encode_cold(block, hard=hard, encoder=encoder)
            with_it, without = with_it + len(record), without + len(CODEC.encode_cold(block, hard=hard))
            for encoding in (DENSE_FIRST, DENSE_SECOND):
                if len(record) <= BLOCK_BYTES:
                    assert CODEC.decode(record, encoding, dictionary=encoder.dictionary) == block
    assert with_it < 0.95 * without


@HARD
def test_zstd_itself_decodes_them(hard: bool) -> None:
    known = zstandard.ZstdCompressionDict(TRAINED, dict_type=zstandard.DICT_TYPE_FULLDICT)
    decompressor = zstandard.ZstdDecompressor(format=zstandard.FORMAT_ZSTD1_MAGICLESS, dict_data=known)
    encoder = encoder_of(hard=hard)
    for seed in range(1000, 1020):
        record = CODEC.encode_cold(text(seed), hard=hard, encoder=encoder)
        assert decompressor.decompress(bytes.fromhex("60000f") + record) == text(seed)


@HARD
def test_a_context_forgets_it(hard: bool) -> None:
    """The next block that has none is encoded without; and the dictionary may be gone by then."""
    plain, patch = CODEC.encode_cold(text(7), hard=hard), CODEC.encode_cold(text(7), text(8), hard=hard)
    CODEC.encode_cold(text(7), hard=hard, encoder=encoder_of(hard=hard))
    assert CODEC.encode_cold(text(7), hard=hard) == plain and CODEC.decode(plain, DENSE) == text(7)
    CODEC.encode_cold(text(7), hard=hard, encoder=encoder_of(hard=hard))
    assert CODEC.encode_cold(text(7), text(8), hard=hard) == patch
    assert CODEC.encode_cold(text(7), text(8), hard=hard, encoder=encoder_of(hard=hard)) == patch
    assert CODEC.decode(patch, DENSE_PATCHED, text(8)) == text(7)


def test_damage_is_refused_or_gives_other_bytes() -> None:
    """Of records, and of the dictionary: nothing is written outside the block, which AddressSanitizer watches."""
    chance, encoder = random.Random(1), encoder_of()
    record = CODEC.encode_cold(text(1000), encoder=encoder)
    with pytest.raises(DecodeError):
        CODEC.decode(record, DENSE_FIRST)
    refused = 0
    for _ in range(2000):
        damaged = bytearray(record)
        for _ in range(chance.choice((1, 1, 5))):
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        try:
            assert len(CODEC.decode(damaged, DENSE_FIRST, dictionary=encoder.dictionary)) == BLOCK_BYTES
        except DecodeError:
            refused += 1
    assert refused > 100
    for number in range(500):
        content = bytearray(TRAINED)
        content[number if number < 300 else chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        try:
            damaged_dictionary = Dictionary(content)
        except ValueError:
            continue
        try:
            assert len(CODEC.decode(record, DENSE_FIRST, dictionary=damaged_dictionary)) == BLOCK_BYTES
        except DecodeError:
            continue


def test_many_threads_use_one() -> None:
    encoder, wrong = encoder_of(), []

    def work(first: int) -> None:
        codec = Codec()
        for seed in range(first, first + 100):
            record = codec.encode_cold(text(seed), encoder=encoder)
            if codec.decode(record, DENSE_FIRST, dictionary=encoder.dictionary) != text(seed):
                wrong.append(seed)

    threads = [threading.Thread(target=work, args=(100 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
