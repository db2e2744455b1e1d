"""A process killed at any line of the store leaves every block old or new, and a state that can be used."""

from __future__ import annotations

import random
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

import blockstore.store
from blockstore.store import domains
from tests.store.crash.lab import Line, Progress, copy_state, live, survive
from tests.store.crash.lives import LIFE_WITH_DICTIONARIES, LIFE_WITH_TIER, SHORT_LIFE, Life, models
from tests.store.seeds import Seeds

pytestmark = pytest.mark.long


READ_ONLY = {"codec.py", "decode.py", "fetch.py", "record_cache.py", "steps.py", "wants.py"}
"""Files whose lines write nothing, so that dying in them is dying in their caller."""


DICTIONARIES = {"dictionaries.py", "dictionary_file.py", "superblock.py", "training.py"}
PAGING = {"file.py", "mover.py", "paging.py", "pieces.py"}
"""Files of which the first life comes by little."""


_FOLDER = str(Path(blockstore.store.__file__).parent)


def live_traced(life: Life, path: Path, reached: Callable[[Line, int, int], None]) -> None:
    """Live it, and tell of each line of the store that is reached, and how many operations were begun and done."""
    progress = Progress()

    def trace(frame: FrameType, event: str, argument: Any) -> Any:
        file = frame.f_code.co_filename
        if not file.startswith(_FOLDER):
            return None
        if event == "line":
            reached((file, frame.f_lineno), progress.begun, progress.done)
        return trace

    sys.settrace(trace)
    try:
        live(life, path, progress)
    finally:
        sys.settrace(None)


LIVES = pytest.mark.parametrize(
    ("life", "files"),
    [(SHORT_LIFE, set()), (LIFE_WITH_TIER, PAGING), (LIFE_WITH_DICTIONARIES, DICTIONARIES)],
    ids=["", "tier", "dictionaries"],
)
"""Lives, and the files in whose lines they end; the first in all others."""


@pytest.mark.nightly
@LIVES
def test_killed_at_every_line(state_path: Path, life: Life, files: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line of the store that this life comes by, the first, the last or some other time."""
    die_at_lines(state_path, life, 1, monkeypatch, files)


@LIVES
def test_killed_at_every_tenth_line(
    state_path: Path, life: Life, files: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    die_at_lines(state_path, life, 10, monkeypatch, files)


def die_at_lines(state_path: Path, life: Life, step: int, monkeypatch: pytest.MonkeyPatch, files: set[str]) -> None:
    """Lives and dies at one of `step` lines."""
    if sys.gettrace():
        pytest.skip("a debugger or coverage uses sys.settrace")
    times: Counter[Line] = Counter()
    seeds = Seeds()
    monkeypatch.setattr(domains, "secrets", seeds)

    def count(line: Line, begun: int, done: int) -> None:
        times[line] += 1

    live_traced(life, state_path, count)
    shutil.rmtree(state_path)
    seeds.drawn = 0
    assert len(times) > 200
    states, chance, wrong = models(life), random.Random(1), []
    due: dict[Line, int] = {}
    for line, often in sorted(times.items()):
        file = Path(line[0]).name
        if file in READ_ONLY or (file not in files if files else file in PAGING | DICTIONARIES - {"superblock.py"}):
            continue
        due[line] = chance.choice((1, often, chance.randint(1, often)))
    due = {line: due[line] for line in list(due)[::step]}
    deaths, copy = len(due), state_path.with_name("left")

    def die(line: Line, begun: int, done: int) -> None:
        if line not in due:
            return
        due[line] -= 1
        if not due[line]:
            del due[line]
            copy_state(state_path, copy)
            drawn = seeds.drawn
            wrong.append(survive(copy, line, begun, done, states))
            seeds.drawn = drawn
            shutil.rmtree(copy)

    live_traced(life, state_path, die)
    assert len(due) < deaths / 20, "the second life has taken another path, and did not come by all so often"
    wrong = [sentence for sentence in wrong if sentence]
    assert not wrong, "\n" + "\n".join(wrong)
