"""The sets of guests that savings are measured on: what runs in them, and the light load that each gets again."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import guestlab

MIB: Final = 1 << 20

_LOADS: Final = Path(guestlab.__file__).parent / "loads"


@dataclass(frozen=True)
class Light:
    """A fixed number of requests to what runs in a guest: `unit`, a line of shell, so many times."""

    unit: str
    requests: int
    """That one unit makes."""
    units: int


@dataclass(frozen=True)
class Plan:
    """One guest. `warm_up` are scripts that it runs before it is saved."""

    name: str
    warm_up: tuple[Path, ...] = ()
    light: tuple[Light, ...] = ()


@dataclass(frozen=True)
class GuestSet:
    """Guests that run side by side."""

    name: str
    guests: tuple[Plan, ...]
    memory_bytes: int = 512 * MIB
    debian: bool = True


_VISIT: Final = Light("ab -q -n 5 -c 2 http://127.0.0.1/near/17", 5, 8)
_BUILD: Final = Light("cd /root/project && gcc -O0 -g -c -o /work/built.o src/module03.c", 1, 8)
_LIGHT: Final = {
    "pgbench": Light("runuser -u postgres -- /usr/lib/postgresql/15/bin/pgbench -n -c 2 -t 10 bench", 20, 10),
    "redis": Light("redis-benchmark -q -t get,set,lpush -n 200 -r 20000", 600, 10),
    "app": _VISIT,
    "build": _BUILD,
}


def _script(name: str) -> Path:
    return _LOADS / f"{name}.sh"


ALIKE: Final = GuestSet(
    "alike",
    tuple(Plan(f"alike{n}", (_script("app"), _script("build")), (_VISIT, _BUILD)) for n in range(1, 5)),
)
DIFFERENT: Final = GuestSet(
    "different", tuple(Plan(name, (_script(name),), (light,)) for name, light in _LIGHT.items())
)
IDLE: Final = GuestSet("idle", tuple(Plan(f"idle{n}") for n in range(1, 4)))
QUICK: Final = GuestSet(
    "idle",
    tuple(Plan(f"quick{n}", light=(Light("cat /work/text*/* | md5sum", 1, 2),)) for n in (1, 2)),
    memory_bytes=128 * MIB,
    debian=False,
)
FULL: Final = (ALIKE, DIFFERENT, IDLE)
