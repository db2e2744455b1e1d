"""A real guest: kept as it is, restored and forked, and each of them goes on from there on its own."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from guestlab import work
from guestlab.guest import Guest

from blockstore.vm.qemu import qmp_sockets
from tests.daemon.lab import NEEDS_QEMU, UNTIL_S, Lab, Mounted, blockstore, ended, one_line, until

pytestmark = [
    pytest.mark.mount,
    pytest.mark.guest,
    NEEDS_QEMU,
]

MIB = 1 << 20
MEMORY_BYTES = 128 * MIB
NAME = f"vm{os.getpid()}"

FILES = "find /work -type f ! -name said | sort | xargs md5sum | md5sum"
"""One sum for all files of a guest but one."""


def guest(mounted: Mounted, name: str, *command: str) -> Guest:
    run = [sys.executable, "-m", "blockstore", *command, "--mount", str(mounted.path), "--"]
    return Guest(name, MEMORY_BYTES, mounted.path / name, runner=run, free_page_reporting=True)


def wait_restored(restored: Guest) -> None:
    until(lambda: bool(restored.qmp("query-status")["running"]), "the restored guest runs")
    restored.assume_ready()


def test_a_guest_goes_on_from_its_snapshot_and_in_forks_of_it(lab: Lab) -> None:
    mounted = lab.mount()
    on = ("--mount", str(mounted.path))
    with guest(mounted, NAME, "run", NAME, "--memory", "128M") as source:
        source.wait_ready(120)
        work.fill_mixed(source, 4)
        source.command("echo before >/work/said")
        assert blockstore("snapshot", *on, NAME, "base").returncode == 0
        source.command("echo after >/work/said")
        assert work.verify(source) == [], "the source goes on"

        exported = lab.path / "base.bsnap"
        assert blockstore("snapshots", "export", "base", str(exported), *on).returncode == 0
        assert blockstore("snapshots", "import", str(exported), "--as", "moved", *on).returncode == 0
        for snapshot in ("moved",):
            with guest(mounted, f"{NAME}-r", "restore", snapshot, "--as", f"{NAME}-r") as restored:
                wait_restored(restored)
                assert restored.command("cat /work/said") == "before\n" and work.verify(restored) == []
                restored.command("echo elsewhere >/work/said")
            until(lambda: not (mounted.path / f"{NAME}-r").exists(), "its memory is gone with it")
        assert source.command("cat /work/said") == "after\n"

        _check_forks(mounted, lab.path, source)
    until(lambda: not mounted.status()["volumes"], "memory without a name is gone")
    assert mounted.status()["snapshots"]["names"] == [".base.snapshot", ".moved.snapshot"]


def _check_forks(mounted: Mounted, folder: Path, source: Guest) -> None:
    on = ("--mount", str(mounted.path))
    hook = folder / "hook"
    hook.write_text('#!/bin/sh\necho "tag echo $BLOCKSTORE_NAME $BLOCKSTORE_MAC >/work/said"\nread line\nread line\n')
    hook.chmod(0o755)
    stored = mounted.total()["stored"]
    with forked(mounted):
        result = blockstore("fork", NAME, "--count", "3", "--hook", str(hook), *on)
        names = [f"{NAME}-{number}" for number in (1, 2, 3)]
        assert result.returncode == 0 and result.stdout.split() == names and not result.stderr, result
        said = {name: ask(mounted, name, "cat /work/said").split() for name in names}
        console = [sys.executable, "-m", "blockstore", "console", names[0], *on]
        done = subprocess.run(
            console, input=b"asked cat /work/said\n", capture_output=True, timeout=UNTIL_S, check=False
        )
        assert done.returncode == 0 and names[0].encode() in done.stdout and not done.stderr, done
        assert [each[0] for each in said.values()] == names and len({each[1] for each in said.values()}) == 3
        assert source.command("cat /work/said") == "after\n", "and the source goes on"
        for name in names:
            assert ask(mounted, name, FILES) == source.command(FILES).strip(), "all its memory is there"
        assert mounted.total()["stored"] < 1.3 * stored
        one_line(blockstore("fork", NAME, "--count", "2", *on), 3, mounted.path / names[0], "--name")
    until(lambda: sorted(os.listdir(mounted.path)) == [".base.snapshot", ".moved.snapshot", NAME], "they are gone")
    hook.write_text("#!/bin/sh\n[ $BLOCKSTORE_NUMBER = 1 ]\n")
    one_line(blockstore("fork", NAME, "--count", "2", "--hook", str(hook), *on), 1, hook, f"{NAME}-2", "exit code 1")
    until(lambda: not list(mounted.path.glob(f"{NAME}-*")), "all or none")
    other = ("qemu-system-x86_64", "-machine", "q35", "-nodefaults", "-display", "none", "-accel", "tcg")
    result = blockstore("fork", NAME, *on, "--", *other)
    one_line(result, 1, f"{NAME}-1", "QEMU said")
    until(lambda: not list(mounted.path.glob(f"{NAME}-*")), "nothing is left of a VM with other devices")
    assert source.command("cat /work/said") == "after\n"


@contextmanager
def forked(mounted: Mounted) -> Iterator[None]:
    """Ends the VMs that were forked inside."""
    try:
        yield
    finally:
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and b"blockstore-run\0" + os.fsencode(f"{mounted.path}/{NAME}-") in _command(entry):
                os.kill(int(entry.name), signal.SIGTERM)
                assert ended(int(entry.name))


def _command(process: Path) -> bytes:
    try:
        return (process / "cmdline").read_bytes()
    except OSError:
        return b""


def ask(mounted: Mounted, name: str, command: str) -> str:
    """Have a forked guest run a command, over its console."""
    path = qmp_sockets.path_of(mounted.state, qmp_sockets.CONSOLE, (mounted.path / name).stat().st_ino)
    with socket.socket(socket.AF_UNIX) as console:
        console.connect(str(path))
        console.settimeout(UNTIL_S)
        console.sendall(f"asked {command}\n".encode())
        text = ""
        while "guestlab-end asked 0" not in text:
            text += console.recv(4096).decode()
        return text.partition("guestlab-begin asked")[2].partition("@@")[0].strip()
