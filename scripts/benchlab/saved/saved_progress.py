"""The light load of a guest: the script that does it, and how far it came when."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

from benchlab.saved.saved_sets import Light

SCRIPT: Final = "/work/light.sh"
LOG: Final = "/work/light.log"
PROGRESS: Final = "/work/progress"
STOP: Final = "/work/stop"
"""When this file is there, no further unit is begun."""

ENDED: Final = "/work/ended"


def script(lights: Sequence[Light]) -> str:
    """Its loads in turn, a unit at a time; after each unit it notes the requests that are answered, and when, by the
    guest's clock in hundredths of a second."""
    lines = [
        "n=0; read began rest </proc/uptime",
        f'note() {{ read now rest </proc/uptime; echo "$n $began $now" >>{PROGRESS}; }}',
        "note",
    ]
    for round_number in range(max((light.units for light in lights), default=0)):
        for light in lights:
            if round_number < light.units:
                lines.append(f"[ -e {STOP} ] || {{ ({light.unit}) && n=$((n + {light.requests})); note; }}")
    return "\n".join([*lines, f"touch {ENDED}"]) + "\n"


@dataclass(frozen=True)
class Progress:
    """`steps` are seconds since the load began, and the requests answered by then; the first one is (0, 0)."""

    steps: tuple[tuple[float, int], ...] = ((0.0, 0),)

    @classmethod
    def parse(cls, text: str) -> Self:
        """What the script has noted."""
        rows = [line.split() for line in text.splitlines()]
        return cls(tuple((float(now) - float(began), int(done)) for done, began, now in rows) or ((0.0, 0),))

    @property
    def done(self) -> int:
        """Requests, in all."""
        return self.steps[-1][1]

    @property
    def seconds(self) -> float:
        """Until the last of them was answered."""
        return self.steps[-1][0]

    def answered_by(self, seconds: float) -> float:
        """Requests answered until then; of a unit that was under way, the part of its time that had passed."""
        before_s, before = self.steps[0]
        for at_s, done in self.steps:
            if at_s > seconds:
                return before + (done - before) * max(seconds - before_s, 0.0) / (at_s - before_s)
            before_s, before = at_s, done
        return float(before)

    def as_json(self) -> dict[str, Any]:
        return {"done": self.done, "seconds": round(self.seconds, 1), "steps": [[*step] for step in self.steps]}
