"""How long requests take inside the daemon: counts by duration, as Prometheus wants histograms."""

from __future__ import annotations

from bisect import bisect_left
from typing import Any, Final

BOUNDS_US: Final = (
    *(5, 10, 20, 50, 100, 200, 500),
    *(1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000, 200_000, 500_000),
    *(1_000_000, 2_000_000, 5_000_000, 10_000_000),
)
"""Upper bounds of the classes; the last class, for all that take longer, has none."""


class Latency:
    """From the moment at which a request was read to the one at which its answer was written.

    Each observation stands for `weight` requests, where not all of them are timed. Written by one thread.
    """

    def __init__(self, weight: int = 1) -> None:
        self._weight = weight
        self._counts = [0] * (len(BOUNDS_US) + 1)
        self._sum_ns = 0

    def observe(self, duration_ns: int) -> None:
        """One more request."""
        self._counts[bisect_left(BOUNDS_US, duration_ns / 1000)] += self._weight
        self._sum_ns += duration_ns * self._weight

    def figures(self) -> dict[str, Any]:
        """`counts` by class, each for itself, with their `bounds_us`; and the sum in microseconds."""
        return {"bounds_us": BOUNDS_US, "counts": list(self._counts), "sum_us": self._sum_ns // 1000}


def quantile_us(counts: list[int], share: float) -> float | None:
    """The upper bound of the class in which the request lies that so large a share is not slower than; None without
    requests, infinite for the last class."""
    total, seen = sum(counts), 0
    for bound_us, count in zip((*BOUNDS_US, float("inf")), counts, strict=True):
        seen += count
        if total and seen >= share * total:
            return float(bound_us)
    return None
