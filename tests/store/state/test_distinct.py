"""Distinct values are those of numpy.unique."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from blockstore.store.state.distinct import distinct


@given(st.lists(st.integers(0, 5) | st.integers(0, 2**64 - 1)))
def test_they_are_those_of_unique(values: list[int]) -> None:
    array = np.array(values, dtype=np.uint64)
    before = array.copy()
    found = distinct(array)
    assert found.dtype == array.dtype and found.tolist() == np.unique(array).tolist()
    assert (array == before).all()


def test_of_a_stride() -> None:
    table = np.arange(12, dtype=np.int64) // 8
    assert distinct(table[1::3]).tolist() == [0, 1]
