"""The memory limit that a process is under: that of its cgroup or of one above, versions 1 and 2. Reads files only.

The pool and the tables are pages of files; they are charged to the cgroup of the daemon, and locked there once it has
read them, on whatever file system the state lies. A pool that may grow beyond the limit ends with a daemon that the
kernel kills again and again, where a full pool only makes writes wait.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Final, NamedTuple

from blockstore.daemon.host.mounts import mount_lines
from blockstore.store.state.pool_limit import MINIMUM_LIMIT_BYTES

V1, V2 = "cgroup v1", "cgroup v2"

NO_LIMIT_BYTES: Final = 1 << 62
"""What version 1 shows where there is no limit is about 2**63, rounded to pages."""

PROCESSES_BYTES: Final = 80 << 20
"""Of a limit, for what is neither pool nor tables. Daemon, supervisor and controller take 40 to 60 MB, and a `reload`,
or a command that is run in the same cgroup, another 30 MB for a moment."""

TABLES_SHARE: Final = 0.1
"""Of the rest, for tables: they take 1.5 % of what is stored, which is three to six times as much as the pool."""


class Place(NamedTuple):
    """Where a process is in a mounted hierarchy: `top` is where that is mounted, `path` the cgroup's directory, None if
    it lies outside of what is mounted."""

    version: str
    top: Path
    path: Path | None


def places(pid: int | str, proc: Path = Path("/proc"), controller: str = "memory") -> Iterator[Place]:
    """In each hierarchy that may have cgroups of a controller (cgroups(7)); "self" is ours. Raises OSError if it has
    ended."""
    lines = (proc / f"{pid}/cgroup").read_text(errors="surrogateescape").split("\n")[:-1]
    paths = {name: path for line in lines for names, path in [line.split(":", 2)[1:]] for name in names.split(",")}
    for version, name in ((V1, controller), (V2, "")):
        for line in mount_lines(proc / "self/mountinfo"):
            found = line.kind == "cgroup2" if version == V2 else line.kind == "cgroup" and controller in line.options
            if found and name in paths:
                yield Place(version, line.path, _below(line.path, line.root, paths[name]))


def _below(top: Path, root: str, path: str) -> Path | None:
    """Both are seen from the root of our cgroup name space: what is not below that begins with `/..`."""
    wanted = PurePosixPath(path)
    if ".." in (*wanted.parts, *PurePosixPath(root).parts) or not wanted.is_relative_to(root):
        return None
    return top / wanted.relative_to(root)


def of_process(pid: int | str = "self", proc: Path = Path("/proc")) -> int | None:
    """The least limit of the cgroup of a process and of all above it, in bytes; None if none is to be seen.

    For a cgroup that is not to be seen the directory that is mounted counts: in a container that is its own.
    """
    found: list[int] = []
    try:
        for place in places(pid, proc):
            path = place.path or place.top
            above = [each for each in (path, *path.parents) if each.is_relative_to(place.top)]
            found += [limit_bytes for each in above for limit_bytes in _limits_at(place.version, each)]
    except OSError:
        return None  # it has ended, or there is no /proc
    return min((each for each in found if each < NO_LIMIT_BYTES), default=None)


def _limits_at(version: str, cgroup: Path) -> Iterator[int]:
    """Those of one level. Version 1 counts what is above it in: also what a container cannot see."""
    if version == V1:
        lines = [line for line in _read(cgroup / "memory.stat") if line.startswith("hierarchical_memory_limit ")]
        texts = [line.split()[1] for line in lines]
    else:  # above `high` processes are held up, without an end if nothing can be taken from them
        texts = [*_read(cgroup / "memory.max"), *_read(cgroup / "memory.high")]
    yield from (int(text) for text in texts if text.isdigit())  # or `max`


def _read(path: Path) -> list[str]:
    """The lines of a file; none where it is missing, as in the root of version 2."""
    try:
        return path.read_text().split("\n")
    except OSError:
        return []


def room_for_pool(limit_bytes: int) -> int:
    """How large a pool may be whose daemon is under this limit, with its tables and processes."""
    return max(int((limit_bytes - PROCESSES_BYTES) * (1 - TABLES_SHARE)), 0)


def complaint(pool_limit_bytes: int, limit_bytes: int | None) -> str:
    """The sentence for a pool limit that the memory limit has no room for; empty if it has."""
    if limit_bytes is None or pool_limit_bytes <= (room_bytes := room_for_pool(limit_bytes)):
        return ""
    advice = "lower the one with `blockstore set`, or raise the other"
    if room_bytes < MINIMUM_LIMIT_BYTES:  # which no pool can be lowered to
        least_bytes = PROCESSES_BYTES + MINIMUM_LIMIT_BYTES / (1 - TABLES_SHARE)
        advice = f"raise that to {math.ceil(least_bytes / (1 << 20))} MiB or more, for the least pool"
    return (
        f"the pool limit of {pool_limit_bytes >> 20} MiB is more than the {room_bytes >> 20} MiB that the memory limit "
        f"of the daemon's cgroup ({limit_bytes >> 20} MiB) leaves for it: the kernel may kill the daemon before the "
        f"pool is full, and VMs hang; {advice}"
    )
