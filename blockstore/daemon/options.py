"""What `blockstore mount` was told, as it is passed on to the supervisor and to each daemon."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Final

DEFAULT_BACKGROUND_CPU: Final = 20.0
"""Per cent of one core for background work, while no VM asks for much: enough to encode some 2000 cold
blocks a second anew, a VM of 1 GiB in two minutes."""

DEFAULT_COLD_AFTER_S: Final = 30.0
"""A VM's working set is written back again within this time (the kernel's own age for dirty pages), and then the work
was for nothing; what stays longer, stays for minutes as a rule."""

FOLLOW: Final = "follow"
ANY_CORE: Final = "none"
"""What --lane-cpu can be: the lane follows the faults, or the scheduler alone decides where it runs."""

EVERY_FILE: Final = ("*",)
"""Names of files whose VMs are attached automatically, as fnmatch(3) has them."""


MOST_PATTERNS_BYTES: Final = 2048
"""Of all these patterns as JSON: they are kept on one page with all else that a daemon leaves to the next."""


@dataclass(frozen=True)
class MountOptions:
    """Paths are absolute. `watchdog_s`: a daemon without a sign of life for so long is replaced. `metrics`: the address
    and port to serve metrics at, if anywhere. `spill`: the URL of the tier; without one, the one that the state has, if
    any (spill.py). `background_cpu`: per cent of a core, 0 is off; a segment of the pool is
    cold, and its records worth that work, `cold_after_s` after it was filled. `lane_cpu`: FOLLOW or ANY_CORE. `attach`:
    patterns of names of files; processes that map one that fits are attached (vm/control/auto_attach.py)."""

    mountpoint: str
    state: str
    pool_limit_bytes: int
    lane_cpu: str = FOLLOW
    patching: bool = True
    allow_other: bool = False
    remove_empty_state: bool = False
    foreground: bool = False
    watchdog_s: float = 10.0
    metrics: tuple[str, int] | None = None
    background_cpu: float = DEFAULT_BACKGROUND_CPU
    cold_after_s: float = DEFAULT_COLD_AFTER_S
    spill: str = ""
    attach: tuple[str, ...] = EVERY_FILE

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> MountOptions:
        """Returns the options, without those that this version does not have: a supervisor of an earlier version passes
        on what that one was told."""
        known = {each.name for each in fields(cls)}
        values = {name: value for name, value in json.loads(text).items() if name in known}
        return cls(**values | {"attach": tuple(values.get("attach", EVERY_FILE))})
