"""`--disks` of `snapshot`, `fork` and `restore`: whoever fails or is killed, no overlay is left that nobody uses, and
the VM goes on. With guests, which look at what is on their disks: tests/guest/test_disks_of_forks.py."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from blockstore.vm.qemu import qmp_sockets
from blockstore.vm.qemu.monitor import Monitor
from blockstore.vm.snapshot.disks import used_by
from tests.cli.runner import invoke
from tests.cli.vms.test_run import NAME, on, running
from tests.cli.vms.test_snapshot import KILLED, RUNS, is_running, listed
from tests.daemon.lab import NEEDS_QEMU, Lab, Mounted, blockstore, one_line, run, until

pytestmark = [
    pytest.mark.mount,
    NEEDS_QEMU,
    pytest.mark.skipif(shutil.which("qemu-img") is None, reason="needs qemu-img (Debian: qemu-utils)"),
]


@pytest.fixture
def mounted(shared: Mounted) -> Mounted:
    """The mount of the tests that need none of their own."""
    return shared


@pytest.fixture
def folder(lab: Lab) -> Path:
    """For overlays; there is a disk beside it."""
    folder = lab.path / "overlays"
    folder.mkdir()
    with (lab.path / "disk.raw").open("wb") as file:
        file.truncate(1 << 20)
    return folder


def with_disk(folder: Path) -> tuple[str, ...]:
    return (*RUNS, "-drive", f"if=virtio,format=raw,file={folder.parent}/disk.raw")


def used(mounted: Mounted) -> set[str]:
    """The overlays that the VM has open."""
    volume = (mounted.path / NAME).stat().st_ino
    with Monitor(qmp_sockets.path_of(mounted.state, qmp_sockets.QMP, volume), NAME) as asked:
        files = used_by(asked.execute("query-named-block-nodes", {"flat": True}))
    return {Path(each).name for each in files if each.endswith(".qcow2")}


def left(folder: Path) -> set[str]:
    return set(os.listdir(folder))


def killed(mounted: Mounted, moment: str, *command: str) -> None:
    done = run([sys.executable, "-c", KILLED, moment, command[0], *on(mounted), *command[1:]])
    assert done.returncode == -signal.SIGKILL, (moment, done)


def test_a_snapshot_that_is_killed(mounted: Mounted, folder: Path) -> None:
    with running(mounted, command=with_disk(folder)):
        for moment in (
            "overlays._as_the_base:before",
            "Moving.move:before",
            "Monitor.execute:transaction",
            "FileWork.append:before",
        ):
            before = left(folder)
            killed(mounted, moment, "snapshot", NAME, "base", "--disks", str(folder))
            until(lambda: is_running(mounted), f"{moment}: the VM goes on")
            until(lambda: left(folder) == used(mounted), f"{moment}: what it does not use is gone")
            assert (left(folder) != before) == moment.startswith(("Monitor", "FileWork")), moment
            assert not listed(mounted)


def test_forks_that_are_killed_or_fail(mounted: Mounted, folder: Path) -> None:
    options = (NAME, "--count", "2", "--disks", str(folder))
    with running(mounted, command=with_disk(folder)):
        only_its_own: Callable[[], bool] = lambda: left(folder) == used(mounted)  # noqa: E731
        for moment in ("overlays.make_all:before", "overlays._as_the_base:before", "fork._bring_up:before"):
            killed(mounted, moment, "fork", *options)
            until(lambda: not list(mounted.path.glob(f"{NAME}-*")), f"{moment}: no VM is left")
            until(only_its_own, f"{moment}: nor its disks")
            assert is_running(mounted)
        result = blockstore("fork", *on(mounted), *options, "--hook", "/bin/false")
        assert result.returncode == 1 and "exit code 1" in result.stderr and not result.stdout, result
        assert only_its_own() and is_running(mounted)
        until(lambda: not list(mounted.path.glob(f"{NAME}-*")), "their memory is gone")


def test_a_restore_that_fails(mounted: Mounted, folder: Path) -> None:
    with running(mounted, command=with_disk(folder)):
        assert blockstore("snapshot", *on(mounted), NAME, "base", "--disks", str(folder)).returncode == 0
        locked = blockstore("disks", *on(mounted), str(folder), "--delete", "--json")
        assert locked.stdout == "{}\n" and left(folder) == used(mounted), "QEMU's locks are seen"
        assert "needed by a VM that runs" in blockstore("disks", *on(mounted), str(folder)).stdout
        restore = ("restore", *on(mounted), "base", "--as", "vm2")
        drive = ("-drive", "if=virtio,format=qcow2,file={disk1}")
        result = blockstore(*restore, "--disks", str(folder), "--", *RUNS, *drive, "-device", "virtio-rng-pci")
        assert result.returncode and "Traceback" not in result.stderr, result
        until(lambda: left(folder) == used(mounted), "the overlay of a VM that did not come up is gone")
        one_line(invoke(*restore, "--", *RUNS), 2, "{disk1}", "behind --")
        one_line(invoke(*restore, "--disks", f"{folder}/nowhere"), 2, f"{folder}/nowhere", "mkdir -p")
        assert left(folder) == used(mounted)
        kept = folder.parent / "vm2.disk1.qcow2"
        kept.write_text("somebody's")
        one_line(invoke(*restore), 3, kept, "rm ")
        assert kept.read_text() == "somebody's"


def test_bad_input(mounted: Mounted, folder: Path) -> None:
    with running(mounted, command=RUNS):
        snapshot = ("snapshot", *on(mounted), NAME, "base")
        one_line(invoke(*snapshot, "--disks", str(folder)), 2, NAME, "has no disk")
        one_line(invoke(*snapshot, "--disks", "no-folder"), 2, "no-folder", "mkdir -p")
        one_line(invoke(*snapshot, "--disks", folder, PATH="/"), 2, "qemu-utils")
        assert blockstore(*snapshot).returncode == 0
        one_line(invoke("restore", *on(mounted), "base", "--as", "vm2", "--disks", str(folder)), 2, "without its VM")
    temporary = (*with_disk(folder)[:-1], with_disk(folder)[-1] + ",snapshot=on")
    with running(mounted, command=temporary):
        one_line(invoke("fork", *on(mounted), NAME, "--disks", str(folder)), 2, "snapshot=on")
    with running(
        mounted,
        command=(
            *RUNS,
            "-blockdev",
            f"driver=file,node-name=f,filename={folder.parent}/disk.raw",
            "-device",
            "virtio-blk-pci,drive=f",
        ),
    ):
        one_line(invoke("fork", *on(mounted), NAME, "--disks", str(folder)), 2, "{disk1}", "behind --")
    assert not left(folder)
    subprocess.run(["qemu-img", "info", folder.parent / "disk.raw"], check=True, capture_output=True, timeout=60)
