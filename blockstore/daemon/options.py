"""What `blockstore mount` was told, as it is passed on to the supervisor and to each daemon."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class MountOptions:
    """Paths are absolute. `watchdog_s`: a daemon without a sign of life for so long is replaced. `metrics`: the address
    and port to serve metrics at, if anywhere."""

    mountpoint: str
    state: str
    pool_limit_bytes: int
    lane: bool = True
    patching: bool = True
    allow_other: bool = False
    remove_empty_state: bool = False
    foreground: bool = False
    watchdog_s: float = 10.0
    metrics: tuple[str, int] | None = None

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> MountOptions:
        return cls(**json.loads(text))
