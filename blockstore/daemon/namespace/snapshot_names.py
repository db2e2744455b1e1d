"""What files are called that are snapshots of VMs, and no VM's memory: the daemon counts them apart.

A snapshot lies at the top of a sharing domain as `.NAME.snapshot`, and as long as it is being made as
`.PID-START.snapshot-of-` with eight digits behind it. vm/snapshot/snapshot_file.py makes them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

PREFIX: Final = "."
SUFFIX: Final = ".snapshot"
PARTIAL: Final = ".snapshot-of-"

NAME: Final = r"[A-Za-z0-9_][A-Za-z0-9_.@+-]{0,99}"
"""What a snapshot can be called, for re."""

OWNER: Final = re.compile(rf"{re.escape(PREFIX)}(\d+)-(\d+){re.escape(PARTIAL)}[0-9a-f]+")
"""The name of one that is being made: the pid and the start time of the process that makes it."""

_FILE: Final = rf"{re.escape(PREFIX)}{NAME}{re.escape(SUFFIX)}|{OWNER.pattern}"
_PATH: Final = re.compile(rf"(?:[^/]+/)?(?:{_FILE})")


def is_snapshot(path: str) -> bool:
    """Says whether the file with this path below the mountpoint is one by its name, finished or not."""
    return bool(_PATH.fullmatch(path))


def snapshots(names: Mapping[int, str]) -> set[int]:
    """Returns the numbers of those files that are some."""
    return {number for number, path in names.items() if is_snapshot(path)}
