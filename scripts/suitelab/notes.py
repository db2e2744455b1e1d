"""What the tests' processes tell the run, by files in its folder: tests/suite.py writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Final

VARIABLE: Final = "BLOCKSTORE_TEST_NOTES"
"""Names the folder."""

LEFT: Final = "left-to-nightly"
"""A number: how many tests are left to scripts/nightly."""


class Notes:
    """The folder, as the run sees it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def environment(self) -> dict[str, str]:
        """Returns the variables that tests/suite.py needs."""
        return {VARIABLE: str(self._folder)}

    def left_to_nightly(self) -> int:
        """Returns how many of the chosen tests are left to scripts/nightly."""
        path = self._folder / LEFT
        return int(path.read_text()) if path.exists() else 0
