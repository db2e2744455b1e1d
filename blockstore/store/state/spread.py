"""Work on parts, in as many threads as there are cores: for compiled code without the interpreter's lock."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

Result = TypeVar("Result")

MAXIMUM_THREADS: Final = 4
"""Memory is what a start waits for: with more threads each of them waits longer."""

PART_ROWS: Final = 1 << 18
"""Rows, map entries or slots of one part: a few milliseconds of work, beside which a change of threads is nothing."""


def share(work: Callable[[int, int], Result], total: int) -> list[Result]:
    """Calls `work(first, end)` for ranges that make up [0, total); see `spread`."""
    return spread(work, parts_of(total))


def parts_of(total: int) -> list[tuple[int, int]]:
    """Returns ranges [first, end) of PART_ROWS that make up [0, total)."""
    return [(first, min(first + PART_ROWS, total)) for first in range(0, total, PART_ROWS)]


def spread(work: Callable[..., Result], parts: Sequence[tuple[Any, ...]]) -> list[Result]:
    """Calls `work` with the arguments of each part, several at a time. Returns the results in the order of the parts,
    when all have ended. Raises what one of them raised."""
    threads = min(MAXIMUM_THREADS, len(os.sched_getaffinity(0)), len(parts))
    if threads <= 1:
        return [work(*part) for part in parts]
    with ThreadPoolExecutor(threads) as executor:
        return list(executor.map(lambda part: work(*part), parts))
