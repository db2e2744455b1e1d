"""Does the tier do what it is asked? One for those who read from it, and one for the pager, which puts and deletes."""

from __future__ import annotations

import logging
import time
from typing import Final

log = logging.getLogger(__name__)

LOG_S: Final = 60.0
"""While it fails, it is told so often: a tier of several servers may fail and answer in turns."""


class TierHealth:
    """`meaning` is what a failure means for VMs, for the log. May be used by several threads."""

    def __init__(self, place: str, meaning: str) -> None:
        self._place = place
        self._meaning = meaning
        self._told_s = -LOG_S
        self._told = False
        self.failing_since = 0.0
        """In seconds since 1970; 0 while all is well."""
        self.reason = ""

    def failed(self, error: Exception) -> None:
        """It did not do it."""
        self.reason = str(error).rstrip(".")
        if not self.failing_since:
            self.failing_since = time.time()
        if time.monotonic() - self._told_s >= LOG_S:
            self._told_s, self._told = time.monotonic(), True
            log.error("%s; %s", self.reason, self._meaning)

    def answered(self) -> None:
        """It did."""
        if self.failing_since:
            self.failing_since, self.reason = 0.0, ""
            if self._told:
                self._told = False
                log.warning("%s answers again", self._place)
