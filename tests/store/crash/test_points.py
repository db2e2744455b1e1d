"""A process killed before any store of compiled code leaves every block old or new, and a state that can be used."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from blockstore.plane.blocks import commit, ranges
from blockstore.plane.moves import publish, reencode
from blockstore.store import domains
from tests.store.crash.lab import Progress, copy_state, live, survive
from tests.store.crash.lives import (
    LIFE_OF_RANGES,
    LIFE_WITH_DICTIONARIES,
    LIFE_WITH_TIER,
    SHORT_LIFE,
    Life,
    models,
)
from tests.store.seeds import Seeds

pytestmark = pytest.mark.long


POINTS = {False: 25, True: 400}
"""Stores of compiled code before which a life ends, ordinarily and nightly."""


MODULES = pytest.mark.parametrize(
    ("module", "life", "least"),
    [
        (commit, SHORT_LIFE, 2000),
        (publish, SHORT_LIFE, 100),
        (publish, LIFE_WITH_TIER, 500),
        (reencode, SHORT_LIFE, 30),
        (reencode, LIFE_WITH_DICTIONARIES, 100),
        (ranges, LIFE_OF_RANGES, 15),
        (commit, LIFE_OF_RANGES, 90),
    ],
    ids=["commit", "compaction", "tier", "re-encoding", "dictionaries", "ranges", "counts of ranges"],
)
"""What stores, and how often at least in that life."""


@MODULES
@pytest.mark.parametrize("nightly", [False, pytest.param(True, marks=pytest.mark.nightly)], ids=["", "nightly"])
def test_killed_before_stores_of_compiled_code(
    state_path: Path, nightly: bool, module: ModuleType, life: Life, least: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lines of Python are too coarse there: commit.pyx changes many words of the tables in one."""
    seeds, states = Seeds(), models(life)
    monkeypatch.setattr(domains, "secrets", seeds)
    copy, wrong = state_path.with_name("left"), []
    number = due = 0
    numbers: list[int] = []
    arrivals: list[Callable[[], None]] = []

    def live_counted(reached: Callable[[int, int], None]) -> None:
        nonlocal number
        number = seeds.drawn = 0
        progress = Progress()

        def arrive() -> None:
            nonlocal number
            number += 1
            reached(progress.begun, progress.done)

        arrivals.append(arrive)
        module.call_at_points(arrive)
        try:
            live(life, state_path, progress)
        finally:
            module.call_at_points(None)

    def die(begun: int, done: int) -> None:
        nonlocal due
        if due >= len(numbers) or number != numbers[due]:
            return
        due += 1
        copy_state(state_path, copy)
        drawn = seeds.drawn
        module.call_at_points(None)
        wrong.append(survive(copy, (f"{module.__name__}.pyx", number), begun, done, states))
        module.call_at_points(arrivals[-1])
        seeds.drawn = drawn
        shutil.rmtree(copy)

    live_counted(lambda begun, done: None)
    shutil.rmtree(state_path)
    assert number > least
    numbers = sorted(random.Random(2).sample(range(1, number), min(POINTS[nightly], number - 1)))
    live_counted(die)
    assert due == len(numbers), "the second life has not come by as many stores"
    assert not any(wrong), "\n" + "\n".join(filter(None, wrong))
