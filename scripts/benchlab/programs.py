"""The C programs of the bench, compiled into the cache when their source has changed."""

from __future__ import annotations

import hashlib
import shlex
from pathlib import Path

from guestlab import assets

_HERE = Path(__file__).parent


def client() -> Path:
    """client.c: what touches the files of a mount."""
    return _compiled("client.c", "-pthread")


def floor() -> Path:
    """floor.c: a libfuse server that answers from a constant. Raises GuestLabError without libfuse3-dev."""
    flags = assets.run(["pkg-config", "--cflags", "--libs", "fuse3"], "find libfuse3-dev (apt-get install it)")
    return _compiled("floor.c", *shlex.split(flags))


def _compiled(name: str, *flags: str) -> Path:
    source = _HERE / name
    recipe = ("gcc", "-O2", "-Wall")
    mark = hashlib.sha256("\0".join((*recipe, *flags)).encode() + source.read_bytes()).hexdigest()[:16]

    def build(partial: Path) -> None:
        assets.run([*recipe, "-o", str(partial), str(source), *flags], f"compile {name}")

    return assets.cached_or_built(f"bench-{source.stem}-{mark}", build)
