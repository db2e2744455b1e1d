"""Runs tests that failed once more, alone. One that passes then depends on time or on others; it still has failed."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from suitelab.notes import Notes, Result
from suitelab.steps import started
from suitelab.suites import PYTEST

TESTS: Final = 10
"""How many at most: when more fail, the reason is no single test."""

LIMIT_S: Final = 300.0
"""For all of them together."""


def run_again(failed: Sequence[Result], environment: Mapping[str, str], folder: Path) -> list[str]:
    """Runs the first of them, one at a time. `folder` gets the log. Returns a line with both results for each."""
    notes = Notes(folder)
    again = [result.test for result in failed[:TESTS]]
    arguments = (*PYTEST, "--quiet", "-m", "", *again)
    with started(arguments, {**environment, **notes.environment()}, folder / "pytest.log") as command:
        try:
            command.code(LIMIT_S)
            end = "it was not run again"
        except subprocess.TimeoutExpired:
            end = f"it was not run again within {LIMIT_S:.0f} s"
    results = notes.results()
    lines = []
    for first in failed:
        second = results.get(first.test)
        then = f"{'passed' if second.passed else 'failed'} alone ({second.load})" if second else end
        lines.append(f"{first.test} failed ({first.load}), then {then}")
    return lines
