"""What the tests tell the run that they are part of (scripts/suitelab). Does nothing when pytest runs on its own.

A plugin, because only pytest knows these things, and its processes end: files in the run's folder are what remains.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from suitelab.notes import LEFT, VARIABLE

FOLDER = os.environ.get(VARIABLE)


class Plugin:
    """Writes notes."""

    def __init__(self, folder: Path, config: pytest.Config) -> None:
        self._folder = folder
        self._by_keyword = bool(config.option.keyword)

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """Counts the tests that are left to scripts/nightly; with -k they may be others that were not meant."""
        left = sum(item.get_closest_marker("nightly") is not None for item in items)
        if left and not self._by_keyword and "not nightly" in items[0].config.option.markexpr:
            (self._folder / LEFT).write_text(str(left))
