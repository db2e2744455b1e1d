"""What every group of measurements gets: images, folders, and how thorough to be."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

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
    kept: dict[str, Any] = field(default_factory=dict)
    """What plots are made of, by the name of its group: whatever JSON can say."""
    not_measured: list[str] = field(default_factory=list)
    """Peers that could not be had here, each with the reason; the rest was measured all the same."""

    @cached_property
    def images(self) -> dict[str, Path]:
        """Of three guests; recorded when first asked for, if there are none yet. Raises BenchError."""
        return images.find(self.image_folder, quick=self.quick)

    def leave_out(self, what: str, reason: str) -> None:
        """A peer is not installed, or not permitted: say so, now and in the results."""
        self.not_measured.append(f"{what}: {reason}")
        self.say(f"not measured: {self.not_measured[-1]}")

    def say(self, line: str) -> None:
        """Tell the person at the terminal what goes on."""
        print(f"bench: {line}", file=sys.stderr, flush=True)


Group = Callable[[Bench], list[Figure]]
