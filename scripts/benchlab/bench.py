"""What every group of measurements gets: images, folders, and how thorough to be."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from benchlab import images
from benchlab.figures import Figure
from benchlab.machine import Noise
from benchlab.mounts import Workspace


@dataclass
class Bench:
    """`quick` is for trying the bench out: less data, fewer repetitions, figures that are not to be quoted."""

    image_folder: Path | None
    workspace: Workspace
    noise: Noise
    quick: bool

    @cached_property
    def images(self) -> dict[str, Path]:
        """Of three guests; recorded when first asked for, if there are none yet. Raises BenchError."""
        return images.find(self.image_folder)

    def say(self, line: str) -> None:
        """Tell the person at the terminal what goes on."""
        print(f"bench: {line}", file=sys.stderr, flush=True)


Group = Callable[[Bench], list[Figure]]
