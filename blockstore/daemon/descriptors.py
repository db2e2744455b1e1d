"""Descriptors: each file of a mount takes two, so that their number limits that of the files.

The map of a file is open, and Python's mmap keeps a second descriptor of it. A process may have as many as `ulimit -Hn`
says.
"""

from __future__ import annotations

import errno
import os
import resource
from contextlib import ExitStack
from typing import Final

from blockstore.errors import MountError
from blockstore.store.home import Home
from blockstore.store.volume import is_volume

A_FILE: Final = 2

OWN: Final = 64
"""Of a daemon that serves no file: tables, the device, sockets and pipes (49 were counted), and some clients."""

LEAST: Final = 32
"""No daemon starts with fewer beside those of its files."""

SPARE: Final = 16
"""No file is made when fewer would be left: maps that grow, clients and SQLite need one now and then."""


def raise_limit() -> None:
    """Lets this process have as many as it may: the usual soft limit is a thousand."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def limit() -> int:
    """Returns how many this process may have."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def files_left(files: int) -> int:
    """Returns about how many files can be made beside so many."""
    return max(limit() - OWN - SPARE - A_FILE * files, 0) // A_FILE


def are_short() -> bool:
    """Tells whether only SPARE are left. Raises OSError for what has nothing to do with it."""
    try:
        with ExitStack() as spare:
            for _ in range(SPARE):
                spare.callback(os.close, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        return True
    return False


def check(home: Home) -> None:
    """Raises MountError if a state has more files than this process can open."""
    files = sum(map(is_volume, home.names()))
    if A_FILE * files + LEAST > limit():
        raise MountError(
            f"the {files} files of the state in {home.describe()} need {A_FILE * files + OWN} descriptors, and a "
            f"process may have {limit()} here; allow more (ulimit -Hn, or LimitNOFILE= in a systemd unit)"
        )
