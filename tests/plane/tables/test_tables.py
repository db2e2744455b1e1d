"""Compiled code has the pointers of the tables as they are now, whatever has grown or was closed."""

from __future__ import annotations

import numpy as np
import pytest

from blockstore.plane.tables.tables import Tables
from blockstore.store.state.geometry import SEGMENT_BYTES
from blockstore.store.state.home import MemoryHome
from blockstore.store.store import Store


def test_growth_is_seen_and_closing_unbinds() -> None:
    store = Store(MemoryHome(), 64 << 20)
    assert store.tables.capacity == store.rows.capacity
    assert store.tables.pool_bytes == store.pool.segments.count * SEGMENT_BYTES
    store.rows.reserve(2 * store.rows.capacity)
    store.pool.set_limit(128 << 20)
    assert store.tables.capacity == store.rows.capacity > 8192
    assert store.tables.pool_bytes == 128 << 20
    store.close()
    assert store.tables.capacity == store.tables.pool_bytes == 0


def test_columns_of_another_type_are_refused() -> None:
    tables, wide, narrow = Tables(), np.zeros(8, np.uint64), np.zeros(8, np.uint16)
    with pytest.raises(ValueError):
        tables.bind_rows(wide, wide, wide, narrow, wide, narrow)  # type: ignore[arg-type]
    assert tables.capacity == 0
    half = np.zeros(4, np.uint32)
    tables.bind_rows(wide, wide, half, narrow, half, narrow)
    assert tables.capacity == 4
