"""Is our processor time limited? That of our cgroup or of one above, versions 1 and 2. Reads files only.

Under such a limit (cpu.max, CPUQuota= of systemd, `docker --cpus`) no core is idle for us: what one thread takes is
missed by all others of the cgroup, lanes among them, and these then stand still until the next period.
"""

from __future__ import annotations

from pathlib import Path

from blockstore.daemon.host.memory_limit import V1, places


def is_limited(pid: int | str = "self", proc: Path = Path("/proc")) -> bool:
    """Returns whether the cgroup of a process or one above it, as far as they are to be seen, has a limit."""
    try:
        for place in places(pid, proc, controller="cpu"):
            path = place.path or place.top
            above = [each for each in (path, *path.parents) if each.is_relative_to(place.top)]
            if any(_has_quota(place.version, each) for each in above):
                return True
    except OSError:
        pass  # there is no /proc
    return False


def _has_quota(version: str, cgroup: Path) -> bool:
    """Of one level: `max 100000` and -1 are none."""
    try:
        words = (cgroup / ("cpu.cfs_quota_us" if version == V1 else "cpu.max")).read_text().split()
    except OSError:
        return False  # as in the root of version 2
    return bool(words) and words[0].isdigit() and int(words[0]) > 0
