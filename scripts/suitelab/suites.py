"""Which checks and tests each suite has."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Final

PYTEST: Final = (sys.executable, "-m", "pytest")
SANITIZED: Final = (sys.executable, "-m", "suitelab.sanitized")
PYTEST_NOTHING: Final = 5
"""Exit code of pytest when no test was chosen."""

TOGETHER: Final = ("-n", "4", "--dist", "worksteal")
"""Four at a time on two cores, for most tests wait most of the time: 467 s for those of `scripts/test`, and 633 s with
two at a time, in which the cores had nothing to do for two thirds."""

WITHOUT_MOUNT: Final = "not mount and not guest and not alone and not nightly"
"""Marker expression of the tests that a process of any user could run."""

CHECKS: Final = {
    "ruff check": ("ruff", "check", "--quiet", "."),
    "ruff format": ("ruff", "format", "--quiet", "--check", "."),
    "mypy": ("mypy", "--no-error-summary"),
    "import-linter": ("lint-imports",),
}


@dataclass(frozen=True)
class Suite:
    """Checks, tests and programs that belong together."""

    name: str
    promise: str
    """How long it takes, for its help."""

    together: str
    """Marker expression of the tests that run several at a time."""

    alone: str = ""
    """Marker expression of the tests that run one at a time after those."""

    checks: bool = True
    """Style, types and layers, beside the tests."""

    quiet: bool = False
    """Says one line when all is well."""

    programs: tuple[tuple[str, ...], ...] = ()
    """Run after the tests, unless tests were chosen."""

    sanitized: tuple[str, ...] = ()
    """What `--sanitize` runs in the place of all else, over a core that sanitizers watch."""


SUITES: Final = {
    suite.name: suite
    for suite in (
        Suite(
            "quick",
            "Checks style, types and layers and runs the tests that need no mount, guest or long time, in a minute.",
            together=f"{WITHOUT_MOUNT} and not long",
            quiet=True,
        ),
        Suite(
            "test",
            "Checks style, types and layers and runs all tests but those marked `nightly`, as CI does, in 12 minutes.",
            together="not alone and not nightly",
            alone="alone and not nightly",
            programs=((*SANITIZED, "tests/plane"),),
            sanitized=("tests/plane", "tests/store"),
        ),
        Suite(
            "nightly",
            "Runs the tests marked `nightly`, and then the soak at its full length, in an hour.",
            together="nightly and not alone",
            alone="nightly and alone",
            checks=False,
            programs=(("scripts/soak",),),
        ),
    )
}
