"""What the tests' processes tell the run, by files in its folder: tests/suite.py writes them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Final, NamedTuple

VARIABLE: Final = "BLOCKSTORE_TEST_NOTES"
"""Names the folder."""

LEFT: Final = "left-to-nightly"
RESULTS: Final = "results"


class Result(NamedTuple):
    """How one test ended."""

    test: str
    """pytest's node ID."""

    passed: bool
    load: str
    """At its end, or at the moment when it failed."""


class Notes:
    """Writes and reads the files of one folder. One process writes each of them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def environment(self) -> dict[str, str]:
        """Returns the variables that tests/suite.py needs."""
        return {VARIABLE: str(self._folder)}

    def add(self, result: Result) -> None:
        """Notes how a test, or one of its phases, ended."""
        with (self._folder / RESULTS).open("a") as file:
            file.write(json.dumps(result) + "\n")

    def results(self) -> dict[str, Result]:
        """Returns by test the first failure, or else the last result."""
        found: dict[str, Result] = {}
        path = self._folder / RESULTS
        for line in path.read_text().splitlines() if path.exists() else ():
            result = Result(*json.loads(line))
            if result.test not in found or found[result.test].passed:
                found[result.test] = result
        return found

    def failed(self) -> list[Result]:
        """Returns the failures, in the order in which they came."""
        return [result for result in self.results().values() if not result.passed]

    def leave_to_nightly(self, count: int) -> None:
        """Notes how many of the tests that could be chosen are left to scripts/nightly. Each worker says the same."""
        (self._folder / LEFT).write_text(str(count))

    def left_to_nightly(self) -> int:
        """Returns that number."""
        path = self._folder / LEFT
        return int(path.read_text() or 0) if path.exists() else 0
