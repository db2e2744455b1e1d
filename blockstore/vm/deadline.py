"""A limit for work on the mount in our own process: whoever waits there for room can be interrupted by a signal, except
in fsync(2) and msync(2) (file_work.py)."""

from __future__ import annotations

import contextlib
import errno
import signal
from collections.abc import Iterator
from types import FrameType

from blockstore.errors import MountError, OutOfRoom


@contextlib.contextmanager
def deadline(seconds: float, failed: str) -> Iterator[None]:
    """What is done inside takes no longer. Raises OutOfRoom, or MountError for other errors of the system; `failed` is
    how the sentence begins. For the main thread."""

    def give_up(number: int, frame: FrameType | None) -> None:
        raise OutOfRoom(
            f"{failed}: the store has had no room for {seconds:g} s; delete something, or raise the limit with "
            "`blockstore set --pool-limit`"
        )

    before = signal.signal(signal.SIGALRM, give_up)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    except OSError as error:
        kind = OutOfRoom if error.errno == errno.ENOSPC else MountError
        raise kind(f"{failed}: {error.strerror}") from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
