"""What keeps the daemon serving while the host runs out of memory: it is what frees memory then.

A daemon that is swapped out, killed first, or waits in the kernel for pages of its own mount to be written back stops
every VM. Each measure needs privileges; without them it is left out, and said.
"""

from __future__ import annotations

import ctypes
import os
import resource
from pathlib import Path
from typing import Final

OOM_SCORE_ADJUSTMENT: Final = -900
"""Almost everything else is killed before it; not -1000, so that a leak in it has an end."""

PR_SET_IO_FLUSHER: Final = 57  # include/uapi/linux/prctl.h, prctl(2)
_MCL_CURRENT, _MCL_FUTURE, _MCL_ONFAULT = 1, 2, 4  # mlockall(2)


def prepare() -> list[str]:
    """Take all measures for this process, before it has threads; a sentence about those that are not to be had."""
    missing = []
    if not _lock_memory():
        missing.append("swapped out (mlockall)")
    if not _lower_oom_score():
        missing.append("killed early (oom_score_adj)")
    if _libc.prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0):
        missing.append("made to wait for its own mount (PR_SET_IO_FLUSHER)")
    if not missing:
        return []
    return [
        f"when memory is short the daemon may be {', or '.join(missing)}, for want of privileges; "
        "CAP_SYS_RESOURCE and CAP_IPC_LOCK are what root has, but not in most containers"
    ]


def _lock_memory() -> bool:
    """Pages stay once they are there; the pool is mapped whole and sparse, so that nothing may be touched for it."""
    unlimited = resource.getrlimit(resource.RLIMIT_MEMLOCK)[0] == resource.RLIM_INFINITY
    if os.geteuid() and not unlimited:
        return False  # with a limit, some later mmap(2) would fail
    return not _libc.mlockall(_MCL_CURRENT | _MCL_FUTURE | _MCL_ONFAULT)


def _lower_oom_score() -> bool:
    try:
        Path("/proc/self/oom_score_adj").write_text(str(OOM_SCORE_ADJUSTMENT))
    except OSError:
        return False
    return True


_libc: Final = ctypes.CDLL(None, use_errno=True)
