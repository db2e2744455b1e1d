"""Starting processes that live as long as a mount in as little memory as Python can do with.

`python -S` leaves out `site`, and what installed packages hook into it: 2 MB of each process. Such a process sees the
standard library, and this package by PYTHONPATH. The daemon needs them all, but not what they import for others.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
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


@contextmanager
def stand_ins() -> Iterator[None]:
    """Import the daemon's libraries within, for 4 MB less. trio has TLS and takes OpenSSL for it, pyfuse3 looks up its
    version and takes a parser of mail for that; the daemon asks for neither, and empty modules stand in for what they
    import. Whoever imports these afterwards gets them as they are."""
    metadata = ModuleType("importlib.metadata")
    metadata.__dict__.update(version=_unknown_version, PackageNotFoundError=ModuleNotFoundError)
    modules: dict[str, ModuleType | None] = {
        "ssl": ModuleType("ssl"),
        "_hashlib": None,  # not to be had: hashlib and hmac do without
        "importlib.metadata": metadata,
    }
    added = {name: module for name, module in modules.items() if name not in sys.modules}
    sys.modules.update(added)  # type: ignore[arg-type]  # None is what import looks for
    try:
        yield
    finally:
        for name in added:
            del sys.modules[name]


def _unknown_version(name: str) -> str:
    raise ModuleNotFoundError(name)
