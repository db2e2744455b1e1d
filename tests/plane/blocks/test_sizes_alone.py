"""What blocks would take by themselves is what encoding each of them says."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from blockstore.errors import CorruptBlock
from blockstore.plane.blocks.decode import Reader
from blockstore.plane.codec.codec import Codec
from blockstore.store.state.geometry import (
    BLOCK_BYTES,
    COMPRESSED,
    DENSE,
    DENSE_PATCHED,
    ENCODING_MASK,
    FIRST_ROW,
    PATCHED,
    RAW,
)
from blockstore.store.state.home import MemoryHome
from blockstore.store.state.location import pack
from blockstore.store.store import Store
from tests.store.material import densify, half, kin, near, noise, put, text

STEP_BYTES = 64
RAW_FROM_BYTES = 3968


@pytest.fixture
def store() -> Iterator[Store]:
    store = Store(MemoryHome(), 64 << 20)
    yield store
    store.close()


def filled(store: Store) -> list[bytes]:
    """Writes blocks of all kinds, some several times. Returns them."""
    kinds = [text(1), noise(1), near(text(1), 1), text(2), near(text(2), 2, 60), half(1), kin(1, 1), near(noise(1), 3)]
    blocks = kinds + random.Random(1).choices(kinds, k=40)
    volume = store.create_volume(1, 1)
    for number, block in enumerate(blocks):  # one by one, for patches are against what is stored already
        put(store, volume, number * BLOCK_BYTES, block)
    return blocks


def alone(block: bytes) -> int:
    return len(Codec().encode(block))


@pytest.mark.parametrize("cold", (False, True), ids=("as written", "cold"))
def test_sums(store: Store, cold: bool) -> None:
    blocks = filled(store)
    if cold:
        densify(store)
    encodings = {where & ENCODING_MASK for where in store.rows.where.items if where}
    assert encodings >= ({DENSE, DENSE_PATCHED} if cold else {RAW, COMPRESSED, PATCHED}), "the material has them all"
    in_steps = {block: min(-(-alone(block) // STEP_BYTES) * STEP_BYTES, BLOCK_BYTES) for block in set(blocks)}
    stored = {block: BLOCK_BYTES if alone(block) >= RAW_FROM_BYTES else alone(block) for block in set(blocks)}
    expected = (sum(in_steps[block] for block in blocks), sum(in_steps.values()), sum(stored.values()))

    reader, end = Reader(store.tables), store.rows.next_row
    assert reader.sum_alone(FIRST_ROW, end, STEP_BYTES, RAW_FROM_BYTES) == expected
    parts = [reader.sum_alone(row, row + 1, STEP_BYTES, RAW_FROM_BYTES) for row in range(FIRST_ROW, end)]
    assert tuple(map(sum, zip(*parts, strict=True))) == expected
    assert reader.sum_alone(end, end, STEP_BYTES, RAW_FROM_BYTES) == (0, 0, 0)


def test_damage_and_rows_that_there_are_not_are_refused(store: Store) -> None:
    filled(store)
    capacity, reader = store.rows.capacity, Reader(store.tables)
    for first, end, step_bytes in ((0, capacity + 1, 64), (0, 2**64 - 1, 64), (FIRST_ROW, FIRST_ROW + 1, 0)):
        with pytest.raises(ValueError, match="rows"):
            reader.sum_alone(first, end, step_bytes, RAW_FROM_BYTES)
    store.rows.where.items[FIRST_ROW + 1] = pack(1 << 40, BLOCK_BYTES, RAW)
    with pytest.raises(CorruptBlock) as refused:
        reader.sum_alone(FIRST_ROW, FIRST_ROW + 3, STEP_BYTES, RAW_FROM_BYTES)
    assert refused.value.block_id == FIRST_ROW + 1
