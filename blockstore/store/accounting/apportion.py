"""Splitting a sum so that the parts add up to it, to the byte. Pure."""

from __future__ import annotations

from collections.abc import Sequence


def apportion(total: int, weights: Sequence[float]) -> list[int]:
    """`total` in integer parts in proportion to the weights (largest remainder); equal parts if all are 0.

    The parts add up to `total` exactly, unless there are no weights.
    """
    assert total >= 0 and all(weight >= 0 for weight in weights)
    if not weights:
        return []
    largest = max(weights)
    # Exact integers from here on: in floats the parts might add up to one byte too many.
    exact = [int(weight / largest * 2**53) for weight in weights] if largest else [1] * len(weights)
    whole = sum(exact)
    parts = [total * weight // whole for weight in exact]
    by_remainder = sorted(range(len(exact)), key=lambda place: -(total * exact[place] % whole))
    for place in by_remainder[: total - sum(parts)]:
        parts[place] += 1
    return parts
