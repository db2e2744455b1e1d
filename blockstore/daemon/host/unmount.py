"""Taking a mount out of the tree, in another process: no thread of ours may ever wait in the kernel for ourselves.

`python -m blockstore.daemon.host.unmount DEVICE` takes the mount with this MAJOR:MINOR away, used or not.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Final

from blockstore.daemon.host import elsewhere, mounts

CONTROLLER_S: Final = 5.0
"""How long the mount's own controller may have a file open, which it looks at now and then."""

COPY_S: Final = 1.0
"""How long a mount name space that is just being made, and begins with a copy of all mounts, may keep ours."""

_LOOK_S: Final = 0.05


def unmount(path: str, *, lazy: bool = False, timeout_s: float | None = None) -> str:
    """Unmount; empty when done, else what umount(8) or fusermount3(1) said. Raises subprocess.TimeoutExpired.

    A lazy unmount takes a mount out of the tree that is in use; it ends with its last user.
    """
    if os.geteuid() == 0:
        # No helper of this type of file system, either: it may look at the mount, and hang while nobody serves it.
        command = ["umount", "--no-canonicalize", "--internal-only", *(["--lazy"] if lazy else []), "--", path]
    else:
        command = ["fusermount3", "-u", *(["-z"] if lazy else []), "--", path]
    result = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)
    if result.returncode == 0:
        return ""
    if os.geteuid() and "mtab" in result.stderr:  # what fusermount3 says of a mount that is another user's
        return "it was mounted by another user, who can end it, and so can root"
    return result.stderr.strip().rpartition(": ")[2].rstrip(".") or f"{command[0]} failed"


def unmount_unused(mount: mounts.Mount, timeout_s: float | None = None) -> tuple[str, str]:
    """Unmount if nobody uses it, and it would end by that: empty, or why it cannot be, and what keeps it. Raises
    subprocess.TimeoutExpired."""
    deadline = time.monotonic() + COPY_S
    while places := elsewhere.places(mount):
        if time.monotonic() > deadline:
            return "it would go on there", elsewhere.describe(places)
        time.sleep(_LOOK_S)
    deadline = time.monotonic() + CONTROLLER_S
    while True:
        failure = unmount(str(mount.path), timeout_s=timeout_s)
        found = mounts.users(mount) if failure else []
        if not failure or found or time.monotonic() > deadline:
            return failure, mounts.describe_users(found) or "somebody"
        time.sleep(_LOOK_S)


def main(arguments: list[str]) -> int:
    """The process: for the supervisor, which has no memory to spare for what this module imports."""
    for mount in mounts.all_mounts():
        if mount.device == arguments[0]:
            unmount(str(mount.path), lazy=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
