"""A process of ours that lives apart: in a session of its own, with no descriptors but those it is given.

For work that must not end with us (guard.py), or that may wait in the kernel for longer than we do (file_work.py,
write_watch.py).
"""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable, Iterable
from typing import Final

_IGNORED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE)
"""What a terminal sends to all that run in it; whoever lives apart ends by itself."""

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h

_prctl: Final = ctypes.CDLL(None).prctl  # before a fork: looking it up takes a lock that another thread may have then

_ALL: Final = 1 << 30
"""Above any descriptor; close_range(2) takes no longer for that."""


def fork(keep: Iterable[int], job: Callable[[], int]) -> int:
    """Start a process that does `job` and ends with its result; the process's number. It has the descriptors `keep`,
    and /dev/null in the place of the standard ones that are not among them."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        os.setsid()
        for number in _IGNORED:
            signal.signal(number, signal.SIG_IGN)
        _close_others(sorted(set(keep)))
        code = job()
    finally:
        os._exit(code)  # whatever happened: what is open or to be cleaned up is our parent's
    raise AssertionError


def end_with(parent: int) -> None:
    """Has the kernel kill this process when the thread that forked it ends (prctl(2), PR_SET_PDEATHSIG); at once when
    the process `parent` has ended before."""
    _prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)


def _close_others(keep: list[int]) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    for number in range(3):
        if number not in keep:
            os.dup2(null, number)
    start = 3
    for number in keep:
        if number >= start:
            os.closerange(start, number)
            start = number + 1
    os.closerange(start, _ALL)
