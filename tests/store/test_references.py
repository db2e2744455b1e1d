"""References: what ingest notes down of a row that is no patch must never be taken for one."""

from __future__ import annotations

import numpy as np
import pytest

from blockstore.errors import CorruptBlock
from blockstore.plane.codec.features import FEATURES
from blockstore.store.checks.verify import Verification, steps
from blockstore.store.state.geometry import (
    BLOCK_BYTES,
    COMPRESSED,
    ENCODING_MASK,
    FIRST_ROW,
    FREE,
    HINT,
    ID_MASK,
    PAGED,
    PATCH_BITS,
    PATCHED,
)
from blockstore.store.state.home import MemoryHome
from blockstore.store.state.rows import MAXIMUM_DEPENDENTS, Rows
from blockstore.store.store import Store
from tests.store.columns import column
from tests.store.invariants import check_store
from tests.store.material import kin, near, noise, put, text


def test_damage_does_not_make_a_patch_of_a_row_with_a_hint() -> None:
    store = Store(MemoryHome(), 64 << 20)
    volume, rows = store.create_volume(1, 1), store.rows
    put(store, volume, 0, b"".join(text(seed) for seed in range(60)))
    put(store, volume, volume.size_bytes, b"".join(kin(seed, seed) for seed in range(60)))
    encoding = column(rows.where) & np.uint64(ENCODING_MASK)
    hinted = np.flatnonzero((encoding == COMPRESSED) & (column(rows.reference) >= HINT)).tolist()
    assert len(hinted) > 5
    blocks = {volume.lookup(block) & ID_MASK: block for block in range(volume.blocks)}
    for number, row in enumerate(hinted):
        rows.where.items[row] ^= COMPRESSED ^ PATCHED
        with pytest.raises(CorruptBlock):
            store.read(volume, blocks[row] * BLOCK_BYTES, BLOCK_BYTES)
        if number % 2:
            result = Verification()
            for _ in steps(store, result, repair=True):
                pass
            assert result.repaired and rows.where.items[row] & ENCODING_MASK == COMPRESSED
        else:
            put(store, volume, blocks[row] * BLOCK_BYTES, noise(row))
    check_store(store, decode=True)


def may_be_reference(rows: Rows, row: int, domain: int) -> bool:
    """A model: may new patches of the domain be against this row?"""
    where = rows.where.items[row]
    return bool(
        where & ENCODING_MASK != FREE
        and where & PATCH_BITS != PATCH_BITS
        and not where & PAGED
        and rows.domain.items[row] == domain
        and rows.dependents.items[row] < MAXIMUM_DEPENDENTS
        and rows.count.items[row]
    )


def test_rows_that_may_be_references() -> None:
    store = Store(MemoryHome(), 64 << 20)
    volume, rows = store.create_volume(1, 1), store.rows
    put(store, volume, 0, b"".join(text(seed) for seed in range(20)) + noise(1))
    put(store, volume, volume.size_bytes, b"".join(kin(seed, seed) for seed in range(20)))
    put(store, volume, volume.size_bytes, b"".join(near(text(seed), seed) for seed in range(20)))
    put(store, volume, 0, noise(2) * 5)
    rows.dependents.items[10], rows.where.items[11] = MAXIMUM_DEPENDENTS, rows.where.items[11] | PAGED
    ids = np.arange(rows.next_row, dtype=np.uint32)
    features = np.arange(1, FEATURES * len(ids) + 1, dtype=np.uint32).reshape(-1, FEATURES)
    store.similarity.enter(features, ids)
    for domain in (volume.domain.index, volume.domain.index + 1):
        expected = [row if may_be_reference(rows, row, domain) else 0 for row in ids.tolist()]
        assert store.similarity.candidates(features, domain)[0].tolist() == expected
        assert any(expected) == (domain == volume.domain.index) and not all(expected[FIRST_ROW:])
