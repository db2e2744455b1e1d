"""Parts of a sum."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from blockstore.store.accounting.apportion import apportion


@given(st.integers(0, 1 << 50), st.lists(st.floats(0, 1e15) | st.integers(0, 1 << 40), max_size=20))
def test_apportion_adds_up_and_is_fair(total: int, weights: list[Any]) -> None:
    parts = apportion(total, weights)
    assert len(parts) == len(weights) and all(part >= 0 for part in parts)
    if not weights:
        return
    assert sum(parts) == total
    whole = sum(weights)
    for part, weight in zip(parts, weights, strict=True):
        fair = total * (weight / whole) if whole else total / len(weights)
        assert abs(part - fair) <= 1 + 1e-9 * total


def test_apportion_examples() -> None:
    assert apportion(10, [1, 1, 1]) == [4, 3, 3]
    assert apportion(7, [0, 0]) == [4, 3]
    assert apportion(5, [0, 2.5]) == [0, 5]
    assert apportion(5, []) == []
