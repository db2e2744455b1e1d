"""How many files a mount can have: each takes a descriptor and a mapping of the daemon, of which it has only so many.

Descriptors are limited by `ulimit -Hn`, mappings by vm.max_map_count: 65,530 where nobody has changed it.
"""

from __future__ import annotations

import errno
import os
import resource
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from blockstore.daemon.fuse.device import spare_pipes
from blockstore.errors import MountError
from blockstore.store.state.home import Home
from blockstore.store.volume import is_volume

OWN_DESCRIPTORS: Final = 64
"""Of a daemon that serves no file: tables, the device, sockets and pipes (49 were counted), and some clients. The spare
pipes of the device come on top of that."""

LEAST_DESCRIPTORS: Final = 32
"""No daemon starts with fewer beside those of its files."""

SPARE_DESCRIPTORS: Final = 16
"""No file is made when fewer would be left: clients and SQLite need one now and then."""

OWN_MAPPINGS: Final = 4096
"""Of a daemon that serves no file: 350 were counted, and threads take more. When none is left, no memory is to be
had, and all VMs of the mount stand still."""

MAPPINGS_FILE: Final = Path("/proc/sys/vm/max_map_count")


def raise_descriptor_limit() -> None:
    """Lets this process have as many as it may: the usual soft limit is a thousand."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def descriptor_limit() -> int:
    """Returns how many this process may have."""
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def mapping_limit() -> int:
    """Returns how many this process may have."""
    return int(MAPPINGS_FILE.read_text())


def files_left(files: int) -> int:
    """Returns about how many files can be made beside so many."""
    by_descriptors = descriptor_limit() - _own_descriptors() - SPARE_DESCRIPTORS - files
    return max(min(by_descriptors, mapping_limit() - OWN_MAPPINGS - files), 0)


def lack(files: int) -> str:
    """Returns why no file can be made beside so many, and what helps; empty if one can."""
    if files + OWN_MAPPINGS >= mapping_limit():
        return (
            f"the daemon may have {mapping_limit()} mappings, and each file takes one; raise vm.max_map_count (sysctl)"
        )
    if _are_descriptors_short():
        return (
            f"the daemon may have {descriptor_limit()} descriptors, and each file takes one; {_MORE_DESCRIPTORS}, and "
            "mount again"
        )
    return ""


def check(home: Home) -> None:
    """Raises MountError if a state has more files than this process can open."""
    files = sum(map(is_volume, home.names()))
    if files + LEAST_DESCRIPTORS > descriptor_limit():
        raise MountError(
            f"the {files} files of the state in {home.describe()} need {files + _own_descriptors()} descriptors, and a "
            f"process may have {descriptor_limit()} here; {_MORE_DESCRIPTORS}"
        )
    if files + OWN_MAPPINGS > mapping_limit() + 1:
        raise MountError(
            f"the {files} files of the state in {home.describe()} need {files + OWN_MAPPINGS} mappings, and a process "
            f"may have {mapping_limit()} here; raise vm.max_map_count (sysctl)"
        )


def _own_descriptors() -> int:
    return OWN_DESCRIPTORS + 2 * spare_pipes(descriptor_limit())


def _are_descriptors_short() -> bool:
    try:
        with ExitStack() as spare:
            for _ in range(SPARE_DESCRIPTORS):
                spare.callback(os.close, os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as error:
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        return True
    return False


_MORE_DESCRIPTORS: Final = "allow more (ulimit -Hn, or LimitNOFILE= in a systemd unit)"
