"""`saved_run.py BYTES CGROUP MERGE QEMU ...`: QEMU in our place, with anonymous memory for its guest.

What `blockstore run` is for a guest on the store, for one on anything else: the same name of the memory, no huge
pages, a cgroup of its own. CGROUP may be empty; MERGE, on or off, says whether KSM may have the memory.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from blockstore.vm.qemu import refused_calls
from blockstore.vm.qemu.qemu_arguments import BACKEND_ID


def command(memory_bytes: int, cgroup: Path | None = None, *, merge: bool = False) -> list[str]:
    """What to put in front of QEMU's command line (guestlab.guest.Guest: `runner`)."""
    place, may_merge = str(cgroup or ""), "on" if merge else "off"
    return [sys.executable, "-P", __file__, str(memory_bytes), place, may_merge]


def main(arguments: list[str]) -> None:
    """Does not return."""
    size, cgroup, merge, *qemu = arguments
    if cgroup:
        Path(cgroup, "cgroup.procs").write_text(str(os.getpid()))
    if not refused_calls.refuse():
        sys.exit("huge pages cannot be refused without root")
    backend = f"memory-backend-ram,id={BACKEND_ID},size={size},merge={merge}"
    # QEMU has a switch of its own for all memory, whatever its backend says.
    machine = [
        "-object",
        backend,
        "-machine",
        f"memory-backend={BACKEND_ID},mem-merge={merge}",
        "-m",
        f"{int(size) >> 20}M",
    ]
    os.execvp(qemu[0], [*qemu, *machine])


if __name__ == "__main__":
    main(sys.argv[1:])
