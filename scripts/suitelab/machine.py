"""How busy the machine is: a test that fails only then depends on time."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path
from typing import Final

_RESOURCES: Final = ("cpu", "io", "memory")


def load(proc: Path = Path("/proc")) -> str:
    """Returns load averages and PSI (Documentation/accounting/psi.rst): the part of the last 10 s, and of the last
    minute, in which some process waited."""
    averages = " ".join((proc / "loadavg").read_text().split()[:3])
    waited = []
    for resource in _RESOURCES:
        with contextlib.suppress(OSError):
            text = (proc / "pressure" / resource).read_text()
            found = re.search(r"^some avg10=([0-9.]+) avg60=([0-9.]+)", text)
            waited += [f"{resource} {found[1]}/{found[2]} %"] if found else []
    return f"load {averages}, PSI {', '.join(waited) or 'not known'}"
