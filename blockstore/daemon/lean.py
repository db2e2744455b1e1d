"""Starting processes that live as long as a mount in as little memory as Python can do with.

`python -S` leaves out `site`, and what installed packages hook into it: 2 MB of each process. Such a process sees the
standard library, and this package by PYTHONPATH.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Final

_VARIABLE: Final = "PYTHONPATH"


def command(module: str, *arguments: str) -> list[str]:
    """`python -m MODULE ARGUMENTS`, without site-packages; to be run in `environment()`."""
    return [sys.executable, "-S", "-m", module, *arguments]


def environment() -> dict[str, str]:
    """Ours, and where this package is."""
    place = str(Path(__file__).resolve().parents[2])
    before = os.environ.get(_VARIABLE)
    return {**os.environ, _VARIABLE: f"{place}{os.pathsep}{before}" if before else place}


def forget() -> None:
    """In such a process: let processes that it starts find packages as if it had been started without `environment`."""
    _, _, before = os.environ.get(_VARIABLE, "").partition(os.pathsep)
    os.environ.pop(_VARIABLE, None)
    if before:
        os.environ[_VARIABLE] = before
