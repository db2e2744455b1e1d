"""Ranges that several threads work on at once, for functions of the plane that are made for that."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

Result = TypeVar("Result")

THREADS = 4
RANGE = 97


def in_small_ranges(work: Callable[[int, int], Result], total: int) -> list[Result]:
    """Calls `work(first, end)` for many small ranges of [0, total), several at a time; the last ends behind it."""
    with ThreadPoolExecutor(THREADS) as executor:
        return list(executor.map(lambda first: work(first, first + RANGE), range(0, total, RANGE)))
