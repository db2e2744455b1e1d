"""`saved_drop.py MOUNT PID...`: what is clean of the memory files that these QEMUs map leaves memory.

Right after QEMU has loaded a guest, that is above all what the guest never wrote: QEMU has looked at each page, whether
it is zero already, and the hole of a file is a page in memory then, where one of anonymous memory is not.
"""

from __future__ import annotations

import sys
from pathlib import Path

from blockstore.daemon.host import mounts
from blockstore.vm.memory.page_out import page_out


def command(mount: Path, pids: list[int]) -> list[str | Path]:
    """A process of its own does it, so that it can be ended."""
    return [sys.executable, "-P", __file__, mount, *(str(pid) for pid in pids)]


def main(path: str, *pids: str) -> None:
    """Do it."""
    mount = mounts.find(Path(path))
    for pid in pids:
        for mapping in list(mounts.mappings_of(int(pid), mount)):
            page_out(mapping.pid, mapping.start, mapping.length)


if __name__ == "__main__":
    main(*sys.argv[1:])
