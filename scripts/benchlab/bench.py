"""What every group of measurements gets: images, folders, and how thorough to be."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchlab.figures import Figure
from benchlab.machine import Noise
from benchlab.mounts import Workspace


@dataclass(frozen=True)
class Bench:
    """`quick` is for trying the bench out: less data, fewer repetitions, figures that are not to be quoted."""

    images: dict[str, Path]
    workspace: Workspace
    noise: Noise
    quick: bool

    def say(self, line: str) -> None:
        """Tell the person at the terminal what goes on."""
        print(f"bench: {line}", file=sys.stderr, flush=True)


Group = Callable[[Bench], list[Figure]]
