"""Decoding in compiled code: what a plain reader of the format finds in the same tables, however they are damaged; and
nothing outside them."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockstore.plane.blocks.decode import Reader
from blockstore.plane.codec.codec import Codec
from blockstore.plane.tables.block_map import BlockMap
from blockstore.plane.tables.tables import Tables
from blockstore.store.state.geometry import (
    BLOCK_BYTES,
    CHECK_MASK,
    COMPRESSED,
    DENSE,
    DENSE_PATCHED,
    DUE,
    ENCODING_MASK,
    FIRST_ROW,
    HOLE,
    ID_MASK,
    LOST_ENTRY,
    PAGED,
    PATCH_BITS,
    PATCHED,
    RAW,
    ZERO_BLOCK,
    ZERO_ENTRY,
)
from blockstore.store.state.location import offset_of, pack, size_of
from tests.store.material import near, noise, text
from tests.store.records import Damaged, decode, digest

SEED = 12345
PAGE_ENTRIES = 512
BLOCKS = [text(1), near(text(1), 1), noise(1), text(2), near(text(1), 2), near(text(1), 3), text(3)]
ENCODINGS = [COMPRESSED, PATCHED, RAW, DENSE, DENSE_PATCHED, PATCHED, COMPRESSED]
ROWS = range(FIRST_ROW, FIRST_ROW + len(BLOCKS))


class Sample:
    """The tables of seven rows, whose records fill a pool, and the map of a volume. Its first page has these seven, a
    hole, and blocks that are zero, lost and due; its second page has no memory."""

    def __init__(self) -> None:
        capacity = ROWS.stop + 1
        self.where, self.digest = np.zeros(capacity, np.uint64), np.zeros(capacity, np.uint64)
        self.reference, self.count = np.zeros(capacity, np.uint32), np.ones(capacity, np.uint32)
        self.domain, self.dependents = np.zeros(capacity, np.uint16), np.zeros(capacity, np.uint16)
        pool, codec = b"", Codec()
        for row, block, encoding in zip(ROWS, BLOCKS, ENCODINGS, strict=True):
            reference = BLOCKS[0] if encoding & PATCH_BITS == PATCH_BITS else None
            record = codec.encode_cold(block, reference) if encoding in (DENSE, DENSE_PATCHED) else block
            if encoding in (COMPRESSED, PATCHED):
                record = codec.encode(block, reference)
            self.where[row], self.digest[row] = pack(len(pool), len(record), encoding), digest(block, SEED)
            self.reference[row] = FIRST_ROW if reference else 0
            pool += record
        self.pool: npt.NDArray[np.uint8] = np.frombuffer(pool, np.uint8).copy()
        entries = [int(self.digest[row]) & CHECK_MASK | row for row in ROWS]
        self.map = np.zeros(2 * PAGE_ENTRIES, np.uint64)
        self.map[: len(entries) + 4] = [*entries, HOLE, ZERO_ENTRY, LOST_ENTRY, DUE]
        self.map[PAGE_ENTRIES:] = entries[0]  # where there is no memory, and nobody may look
        self.pages = bytearray((1, 0))

    def reader(self) -> Reader:
        """Of these tables."""
        tables = Tables()
        tables.bind_rows(self.where, self.digest, self.reference, self.domain, self.count, self.dependents)
        tables.bind_pool(self.pool.data)
        return Reader(tables)

    def block_map(self) -> BlockMap:
        bound = BlockMap()
        bound.bind(self.map, self.pages)
        return bound

    def content(self, row: int) -> bytes | None:
        """What a row decodes to, by the format alone; None if that is nothing."""
        if row >= len(self.where):
            return None
        reference = b""
        if int(self.where[row]) & PATCH_BITS == PATCH_BITS:
            base = int(self.reference[row])
            if base >= len(self.where) or int(self.where[base]) & PATCH_BITS == PATCH_BITS:
                return None
            found = self.content(base)
            if found is None:
                return None
            reference = found
        where = int(self.where[row])
        offset, size_bytes = offset_of(where), size_of(where)
        if where & PAGED or offset + size_bytes > len(self.pool):
            return None
        try:
            return decode(self.pool[offset : offset + size_bytes].tobytes(), where & ENCODING_MASK, reference)
        except Damaged:
            return None

    def block(self, number: int) -> bytes | None:
        """What a block of the volume is; None if it cannot be read."""
        if number >= len(self.map) or not self.pages[number // PAGE_ENTRIES]:
            return ZERO_BLOCK
        entry = int(self.map[number])
        if entry in (HOLE, ZERO_ENTRY):
            return ZERO_BLOCK
        content = self.content(entry & ID_MASK)
        if content is None or entry & ID_MASK == DUE:
            return None
        found = digest(content, SEED)
        is_right = found == int(self.digest[entry & ID_MASK]) and not (found ^ entry) & CHECK_MASK
        return content if is_right else None


def test_blocks_of_all_encodings() -> None:
    sample = Sample()
    reader = sample.reader()
    for row, block in zip(ROWS, BLOCKS, strict=True):
        assert reader.row(row) == block == sample.content(row)
        assert reader.entry(int(sample.map[row - FIRST_ROW]), SEED) == block
    for row in (*range(FIRST_ROW), ROWS.stop, len(sample.where), ID_MASK, 2**64 - 1):
        assert reader.row(row) is None
    for entry in (LOST_ENTRY, DUE, ZERO_ENTRY ^ 1 << 40, int(sample.map[0]) + 1, int(sample.map[0]) ^ 1 << 63):
        assert reader.entry(entry, SEED) is None
    assert reader.entry(int(sample.map[0]), SEED + 1) is None


def test_a_range_ends_before_what_cannot_be_read() -> None:
    sample = Sample()
    reader, block_map = sample.reader(), sample.block_map()
    expected = [*BLOCKS, ZERO_BLOCK, ZERO_BLOCK]
    for first in range(len(expected) + 1):
        for count in range(len(expected) + 3):
            buffer = bytearray(b"x" * (count * BLOCK_BYTES + 21))
            done = reader.read(block_map, first, count, SEED, buffer, 16)
            readable = expected[first : first + count]
            assert done == len(readable)
            assert buffer[16 : 16 + done * BLOCK_BYTES] == b"".join(readable)
            assert reader.written == done - (first <= len(BLOCKS) < first + done)
            assert buffer[:16] == b"x" * 16 and buffer[-5:] == b"x" * 5


def test_holes_have_no_memory_and_end_nowhere() -> None:
    sample = Sample()
    reader, block_map, buffer = sample.reader(), sample.block_map(), bytearray(b"x" * 3 * BLOCK_BYTES)
    for first in (PAGE_ENTRIES - 1, PAGE_ENTRIES, 2 * PAGE_ENTRIES - 1, 2 * PAGE_ENTRIES, 2**40, 2**64 - 4):
        buffer[:] = b"x" * len(buffer)
        assert reader.read(block_map, first, 3, SEED, buffer, 0) == 3 and not any(buffer) and not reader.written
    block_map.unbind()
    sample.pages.extend(b"\1")  # nobody holds it any more
    assert reader.read(block_map, 0, 3, SEED, buffer, 0) == 3 and not any(buffer)
    block_map.bind(sample.map, sample.pages)
    assert reader.read(block_map, 0, 3, SEED, buffer, 0) == 3 and buffer == b"".join(BLOCKS[:3])
    assert reader.read(block_map, 3 * PAGE_ENTRIES, 1, SEED, buffer, 0) == 1 and not any(buffer[:BLOCK_BYTES])


def test_a_buffer_that_is_too_short_is_refused() -> None:
    sample = Sample()
    reader, block_map = sample.reader(), sample.block_map()
    for count, at in ((2, 1), (1, BLOCK_BYTES + 1), (3, 0), (-1, 0), (1, -1), (0, 2 * BLOCK_BYTES + 1), (2**62, 0)):
        with pytest.raises(ValueError, match="do not fit"):
            reader.read(block_map, 0, count, SEED, bytearray(2 * BLOCK_BYTES), at)
    with pytest.raises(BufferError):
        reader.read(block_map, 0, 1, SEED, bytes(BLOCK_BYTES), 0)  # type: ignore[arg-type]


def test_tables_that_are_not_bound_have_no_blocks() -> None:
    reader, entry = Reader(Tables()), int(Sample().map[0])
    assert reader.row(FIRST_ROW) is None and reader.entry(entry, SEED) is None


TABLES = st.sampled_from(("where", "digest", "reference", "pool", "map"))
FLIPS = st.lists(st.tuples(TABLES, st.integers(0, 2**32)), min_size=1, max_size=4)


@given(FLIPS)
def test_damage_gives_the_right_block_or_none(flips: list[tuple[str, int]]) -> None:
    sample = Sample()
    for name, bit in flips:
        table = getattr(sample, name)
        table = table[: len(BLOCKS) + 5] if name == "map" else table
        bits = table.view(np.uint8)
        bits[bit // 8 % len(bits)] ^= 1 << bit % 8
    has_other_words = any(name == "where" for name, _ in flips)
    reader, block_map, buffer = sample.reader(), sample.block_map(), bytearray(BLOCK_BYTES)
    for number in range(len(BLOCKS) + 5):
        done = reader.read(block_map, number, 1, SEED, buffer, 0)
        found, expected = bytes(buffer) if done else None, sample.block(number)
        # A record that is said to be longer than it is: the model takes no offence at what follows the frame.
        assert found == expected or (found is None and has_other_words)
        content = reader.row(number)
        assert content is None or len(content) == BLOCK_BYTES


WORDS = st.builds(
    lambda offset, size_bytes, encoding, paged: paged << 63 | pack(offset, size_bytes, encoding),
    st.integers(0, 1 << 15) | st.integers(0, (1 << 47) - 1),
    st.integers(0, (1 << 13) - 1),
    st.integers(0, ENCODING_MASK),
    st.booleans(),
)


@given(
    st.lists(WORDS, min_size=len(BLOCKS), max_size=len(BLOCKS)), st.lists(st.integers(0, 20), min_size=7, max_size=7)
)
def test_words_of_any_content_read_nothing_outside(words: tuple[int, ...], references: tuple[int, ...]) -> None:
    """Records at any place, patches against anything: what is told apart here by AddressSanitizer, if it is there."""
    sample = Sample()
    sample.where[ROWS.start : ROWS.stop], sample.reference[ROWS.start : ROWS.stop] = words, references
    reader = sample.reader()
    for row in range(len(sample.where)):
        where = int(sample.where[row])
        offset, size_bytes = offset_of(where), size_of(where)
        content = reader.row(row)
        if where & PAGED or offset + size_bytes > len(sample.pool):
            assert content is None
