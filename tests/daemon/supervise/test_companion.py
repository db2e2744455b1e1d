"""When the controller's process is there. What it does is tested in tests/vm/memory."""

from __future__ import annotations

import pytest

from tests.daemon.lab import Lab, blockstore, put, until

pytestmark = pytest.mark.mount


def test_the_first_file_brings_the_controller(lab: Lab) -> None:
    mounted = lab.mount()
    total = mounted.total()
    assert total["controller_pid"] is None and total["daemon_memory_parts"]["controller"] == 0
    put(mounted.path / "memory", b"x")
    controller = mounted.controller_pid()
    (mounted.path / "memory").unlink()
    mounted.controller_ticks()
    assert mounted.controller_pid() == controller, "it stays"
    assert mounted.umount().returncode == 0


def test_a_mount_that_never_had_one_ends_as_others_do(lab: Lab) -> None:
    mounted = lab.mount()
    assert mounted.total()["controller_pid"] is None
    assert mounted.umount().returncode == 0 and not (mounted.state / "daemon.controller").exists()


def test_a_daemon_that_takes_over_or_finds_files_has_one(lab: Lab) -> None:
    """It looks for pages whose write-back has failed under the daemon before."""
    mounted = lab.mount()
    assert blockstore("reload", str(mounted.path)).returncode == 0
    mounted.controller_pid()
    put(mounted.path / "memory", b"x")
    assert mounted.umount().returncode == 0
    again = lab.mount()
    until(lambda: again.total()["controller_pid"] is not None, "the controller of a state with files runs")
