"""`blockstore snapshot` and `fork` of a VM that does not run: it is afterwards what it was before, and has its disks,
or is refused before anything happens. The guest is a boot sector."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from blockstore.daemon.host import mounts
from blockstore.errors import OutOfRoom, VmError
from blockstore.vm.file_work import FileWork
from blockstore.vm.qemu import qmp_sockets, running
from blockstore.vm.qemu.monitor import Monitor
from blockstore.vm.snapshot import snapshot_file, take
from blockstore.vm.snapshot.disks import Moving
from tests.cli.runner import invoke
from tests.cli.vms.test_run import NAME, on
from tests.cli.vms.test_run import running as started
from tests.cli.vms.test_snapshot import KILLED, MOMENTS, RUNS, hidden, listed, snapshot
from tests.daemon.lab import NEEDS_QEMU, Lab, Mounted, blockstore, one_line, run, until

pytestmark = [
    pytest.mark.mount,
    NEEDS_QEMU,
    pytest.mark.skipif(shutil.which("qemu-io") is None, reason="needs qemu-io (Debian: qemu-utils)"),
]

HALTS: Final = b"\xf4\xeb\xfd"  # again: hlt; jmp again
SUSPENDS: Final = b"\xba\x04\x06\xb8\x00\x24\xef" + HALTS  # mov dx, PM1a_CNT; mov ax, S3; out dx, ax
SHUTS_DOWN: Final = b"\xba\x04\x06\xb8\x00\x20\xef" + HALTS  # the same with S5
PANICS: Final = b"\xba\x05\x05\xb0\x01\xee" + HALTS  # mov dx, pvpanic; mov al, 1; out dx, al
WRITES: Final = b"\xb8\x01\x03\xb9\x02\x00\xba\x80\x00\xbb\x00\x7e\xcd\x13" + HALTS
"""mov ax, 0x0301; mov cx, 2; mov dx, 0x80; mov bx, 0x7e00; int 0x13: one sector to the disk."""

FAILS_ONCE: Final = "inject-error.0.event=none,inject-error.0.iotype=write,inject-error.0.once=on"


@pytest.fixture
def mounted(shared: Mounted) -> Mounted:
    """The mount of the tests that need none of their own."""
    return shared


@pytest.fixture
def disk(lab: Lab) -> Path:
    return lab.path / "disk.raw"


def vm(disk: Path, guest: bytes, *options: str) -> tuple[str, ...]:
    """The command of a VM with this boot sector."""
    disk.write_bytes(guest.ljust(510, b"\0") + b"\x55\xaa" + bytes((1 << 20) - 512))
    drive = () if "-blockdev" in options else ("-drive", f"if=virtio,format=raw,file={disk}")
    return (*RUNS, *options, *drive)


def second_monitor(lab: Lab) -> Path:
    return lab.path / "second"


def socket_of(mounted: Mounted, name: str) -> Path:
    return qmp_sockets.path_of(mounted.state, qmp_sockets.QMP, (mounted.path / name).stat().st_ino)


def asked(mounted: Mounted, command: str, name: str = NAME) -> Any:
    with Monitor(socket_of(mounted, name), name) as monitor:
        return monitor.execute(command)


def status(mounted: Mounted, name: str = NAME) -> str:
    return str(asked(mounted, "query-status", name)["status"])


def reaches(mounted: Mounted, state: str) -> None:
    """Wait for a state, over one connection: QEMU 7.2 may drop one that comes at the moment when the last one ends."""
    with Monitor(socket_of(mounted, NAME), NAME) as monitor:
        until(lambda: monitor.execute("query-status")["status"] == state, f"the VM is in {state}")


def is_locked(disk: Path) -> bool:
    """Does QEMU keep other processes from writing to it?"""
    command = ["qemu-io", "-f", "raw", "-c", f"write {(1 << 20) - 512} 512", str(disk)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert not done.returncode or "lock" in done.stderr, done
    return done.returncode != 0


def has_nothing_of_ours(mounted: Mounted) -> bool:
    """What a snapshot has made in QEMU, or changed, is undone. QEMU keeps a descriptor until the VM runs."""
    nodes = [each["node-name"] for each in asked(mounted, "query-named-block-nodes")]
    capabilities = {each["capability"]: each["state"] for each in asked(mounted, "query-migrate-capabilities")}
    mine = [*asked(mounted, "query-jobs"), *(node for node in nodes if "blockstore" in node)]
    if asked(mounted, "query-status")["running"]:
        mine += asked(mounted, "query-fdsets")
    return not mine and not capabilities[running.IGNORE_SHARED]


PAUSED: Final = {
    "prelaunch": (HALTS, ("-S",)),
    "paused": (HALTS, ()),
    "guest-panicked": (PANICS, ("-device", "pvpanic", "-action", "panic=pause")),
    "io-error": (WRITES, ()),
}
"""State: guest and options."""


@contextmanager
def in_state(mounted: Mounted, disk: Path, state: str, *more: str) -> Iterator[None]:
    guest, options = PAUSED[state]
    if state == "io-error":
        node = f"driver=blkdebug,node-name=d,image.driver=file,image.filename={disk},{FAILS_ONCE}"
        options = ("-blockdev", node, "-device", "virtio-blk-pci,drive=d,werror=stop")
    with started(mounted, command=vm(disk, guest, *options, *more)):
        if state == "paused":
            asked(mounted, "stop")
        reaches(mounted, state)
        yield


@pytest.mark.parametrize("state", PAUSED)
def test_is_what_it_was(mounted: Mounted, disk: Path, state: str) -> None:
    with in_state(mounted, disk, state):
        for name in ("first", "second"):
            assert is_locked(disk), "before"
            result = snapshot(mounted, NAME, name)
            assert result.returncode == 0, result
            assert status(mounted) == state and is_locked(disk) and has_nothing_of_ours(mounted)
        assert listed(mounted) == ["first", "second"]
        asked(mounted, "cont")
        reaches(mounted, "running")
        assert is_locked(disk) and has_nothing_of_ours(mounted)


@pytest.mark.parametrize("state", ["prelaunch", "paused", "guest-panicked"])
def test_what_is_restored_is_no_second_writer(mounted: Mounted, disk: Path, state: str) -> None:
    with in_state(mounted, disk, state):
        assert snapshot(mounted, NAME, "base").returncode == 0
        result = blockstore("restore", *on(mounted), "base", "--as", "vm2")
        assert result.returncode != 0 and "lock" in result.stderr, result
        assert status(mounted) == state and is_locked(disk)


@pytest.mark.parametrize("state", ["prelaunch", "paused", "guest-panicked"])
def test_forks_of_one_that_does_not_run(lab: Lab, mounted: Mounted, disk: Path, state: str) -> None:
    with in_state(mounted, disk, state):
        folder = lab.path / "overlays"
        folder.mkdir()
        for number in (1, 2):
            result = blockstore("fork", *on(mounted), NAME, "--name", f"{NAME}-f{number}", "--disks", str(folder))
            assert result.returncode == 0, result
            assert status(mounted, f"{NAME}-f{number}") == "running"
            assert status(mounted) == state and is_locked(next(folder.glob(f"{NAME}.disk1.*")))
        asked(mounted, "cont")
        assert status(mounted) == "running"


@pytest.mark.parametrize("moment", [moment for moment in MOMENTS if not moment.endswith(":cont")])
def test_killed_while_it_saves_one_that_is_paused(mounted: Mounted, disk: Path, moment: str) -> None:
    with in_state(mounted, disk, "paused"):
        killed = run([sys.executable, "-c", KILLED, moment, "snapshot", *on(mounted), NAME, "base"])
        assert killed.returncode == -signal.SIGKILL, killed
        until(lambda: has_nothing_of_ours(mounted), "the guard has undone it")
        assert status(mounted) == "paused" and is_locked(disk) and not listed(mounted)
        assert snapshot(mounted, NAME, "base").returncode == 0
        asked(mounted, "cont")
        assert status(mounted) == "running"


REFUSED: Final = {
    "inmigrate": (HALTS, ("-incoming", "defer"), "waits for its own device state"),
    "postmigrate": (HALTS, (), "cont, at "),
    "shutdown": (SHUTS_DOWN, ("-no-shutdown",), "system_reset"),
    "suspended": (SUSPENDS, (), "system_wakeup"),
    "prelaunch": (HALTS, ("-S", "-device", "nvme,serial=1"), "cannot save; start it without that"),
}


CURES: Final = {"postmigrate": ("cont", "running"), "shutdown": ("system_reset", "prelaunch")}
"""What the sentence names, and the state after it."""


@pytest.mark.parametrize("state", REFUSED)
def test_is_refused_before_anything_happens(lab: Lab, mounted: Mounted, disk: Path, state: str) -> None:
    guest, options, words = REFUSED[state]
    folder = lab.path / "overlays"
    folder.mkdir()
    with started(mounted, command=vm(disk, guest, *options)):
        if state == "postmigrate":
            with Monitor(socket_of(mounted, NAME), NAME) as monitor:
                monitor.execute("migrate", {"uri": "exec:cat >/dev/null"})
        reaches(mounted, state)
        one_line(invoke("snapshot", *on(mounted), NAME, "base"), 1, NAME, words)
        one_line(invoke("snapshot", *on(mounted), NAME, "base", "--disks", folder), 1, NAME, words)
        one_line(invoke("fork", *on(mounted), NAME, "--disks", folder), 1, NAME, words)
        assert status(mounted) == state and has_nothing_of_ours(mounted)
        assert not os.listdir(folder) and not hidden(mounted)
        if state in CURES:
            command, then = CURES[state]
            asked(mounted, command)
            reaches(mounted, then)
            assert snapshot(mounted, NAME, "base").returncode == 0 and status(mounted) == then


@contextmanager
def meddled(lab: Lab, monkeypatch: pytest.MonkeyPatch, moment: str, command: str) -> Iterator[None]:
    """Inside, another program gives the VM a command over its second monitor when FileWork does what `moment` says."""
    real = getattr(FileWork, moment)

    def meddles(self: FileWork, timeout_s: float) -> None:
        real(self, timeout_s)
        with Monitor(second_monitor(lab), NAME) as monitor:
            monitor.execute(command)

    with monkeypatch.context() as patch:
        patch.setattr(FileWork, moment, meddles)
        yield


def attempt(mounted: Mounted, disks: Path | None = None) -> None:
    mount = mounts.find(mounted.path)
    found = running.find(mount, NAME, None)
    with snapshot_file.making(mount, "") as (path, descriptor):
        take.take(mount, found, descriptor, path, Moving(found, disks) if disks else None)


def with_second_monitor(lab: Lab) -> tuple[str, str]:
    return "-qmp", f"unix:{second_monitor(lab)},server=on,wait=off"


def test_the_disk_is_locked_all_the_time(mounted: Mounted, disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a VM that runs: it would be another process's when the VM is to go on."""
    found: list[bool] = []
    real = FileWork.clone

    def looks(self: FileWork, timeout_s: float) -> None:
        real(self, timeout_s)
        found.append(is_locked(disk))

    with started(mounted, command=vm(disk, HALTS)):
        monkeypatch.setattr(FileWork, "clone", looks)
        attempt(mounted)
        assert found == [True] and status(mounted) == "running" and is_locked(disk)


def test_one_that_is_paused_while_its_pages_are_written_stays_so(
    lab: Lab, mounted: Mounted, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with started(mounted, command=vm(disk, HALTS, *with_second_monitor(lab))):
        with meddled(lab, monkeypatch, "flush", "stop"):
            attempt(mounted)
        assert status(mounted) == "paused" and is_locked(disk)


def test_what_fails_leaves_the_disks_where_they_are(
    lab: Lab, mounted: Mounted, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = lab.path / "overlays"
    folder.mkdir()

    def fails(self: FileWork, timeout_s: float) -> None:
        raise OutOfRoom("no room for a clone")

    with in_state(mounted, disk, "paused"):
        monkeypatch.setattr(FileWork, "clone", fails)
        with pytest.raises(OutOfRoom):
            attempt(mounted, folder)
        assert not os.listdir(folder) and is_locked(disk)
        assert status(mounted) == "paused" and has_nothing_of_ours(mounted)


def test_one_that_goes_on_in_the_middle_is_not_kept(
    lab: Lab, mounted: Mounted, disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with in_state(mounted, disk, "paused", *with_second_monitor(lab)):
        with meddled(lab, monkeypatch, "clone", "cont"), pytest.raises(VmError, match="told to go on by another"):
            attempt(mounted)
        assert status(mounted) == "running" and not hidden(mounted) and has_nothing_of_ours(mounted)
