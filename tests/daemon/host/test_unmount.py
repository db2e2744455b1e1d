"""How a mount leaves the tree."""

from __future__ import annotations

import sys

import pytest

from tests.daemon.lab import Lab, mounts_below, run, supervisors_of

# Another name space of mounts begins with a copy of all that there are.
pytestmark = [pytest.mark.mount, pytest.mark.alone]

IN_A_NAME_SPACE_WITH_A_HELPER = """
mount -t overlay -o lowerdir="$0:/usr/sbin" overlay /usr/sbin || exit 77
test -x /sbin/umount.fuse.blockstore || exit 77
"$1" -m blockstore mount "$2" --state "$3" --pool-limit 64M && "$1" -m blockstore umount "$2"
"""


def test_no_helper_of_the_system_is_run(lab: Lab) -> None:
    """umount(8) runs umount.TYPE, if there is one, which may look at a mount that nobody serves."""
    ran, mountpoint, state = lab.path / "ran", lab.mountpoint(), lab.path / "state"
    helper = lab.path / "sbin" / "umount.fuse.blockstore"
    helper.parent.mkdir()
    helper.write_text(f"#!/bin/sh\ntouch {ran}\n")
    helper.chmod(0o755)
    script = [IN_A_NAME_SPACE_WITH_A_HELPER, str(helper.parent), sys.executable, str(mountpoint), str(state)]
    result = run(["unshare", "--mount", "--propagation", "private", "sh", "-c", *script])
    if result.returncode == 77:
        pytest.skip(f"no overlay of /usr/sbin can be had: {result.stderr}")
    assert result.returncode == 0 and not ran.exists(), result
    assert not supervisors_of(lab.path) and not mounts_below(lab.path)
