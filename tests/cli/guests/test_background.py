"""VMs in the background: started, waited for, stopped; with a QEMU that runs its firmware only."""

from __future__ import annotations

import contextlib
import os
import pty
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cli.vms.test_run import NAME, nothing_is_left, on, processes_with
from tests.cli.vms.test_snapshot import RUNS
from tests.daemon.lab import NEEDS_QEMU, PROJECT, Lab, Mounted, blockstore, one_line, until

pytestmark = [
    pytest.mark.mount,
    NEEDS_QEMU,
]

WITH_CONSOLE = (*RUNS, "-serial", "stdio")


@contextlib.contextmanager
def background(mounted: Mounted, *command: str, name: str = NAME) -> Iterator[None]:
    """One VM, which is ended afterwards if it still runs."""
    try:
        done = blockstore("run", name, "--memory", "64M", *on(mounted), "--detach", "--", *command)
        assert done.returncode == 0 and done.stdout == f"{name}\n", done
        yield
    finally:
        for each in os.listdir(mounted.path):
            if not each.startswith("."):
                blockstore("stop", "--kill", each, *on(mounted))


def has_pidfd(pid: int) -> bool:
    links = []
    with contextlib.suppress(OSError):
        links = [os.readlink(each) for each in Path(f"/proc/{pid}/fd").iterdir()]
    return any("pidfd" in link for link in links)


def test_a_vm_in_the_background(lab: Lab) -> None:
    mounted = lab.mount()
    with background(mounted, *RUNS):
        assert mounted.status()["volumes"][NAME]["controller"]["attached_by"] == "run"
        one_line(
            blockstore("run", NAME, "--memory", "64M", *on(mounted), "--detach", "--", *RUNS), 3, "is there already"
        )
        one_line(blockstore("wait", NAME, "--timeout", "0.2", *on(mounted)), 1, NAME, "has not ended within 0.2 s")
        one_line(blockstore("console", NAME, *on(mounted)), 2, NAME, "has no console here")
        one_line(blockstore("exec", NAME, *on(mounted), "--", "true"), 2, NAME, "has no port for a guest agent")
        late = blockstore("stop", NAME, "--timeout", "0.2", *on(mounted))  # there is no system that heeds the button
        one_line(late, 1, NAME, "did not shut down within 0.2 s", "stop --kill")
        waits = subprocess.Popen([sys.executable, "-m", "blockstore", "wait", NAME, *on(mounted)], cwd=PROJECT)
        until(lambda: has_pidfd(waits.pid), "it waits for QEMU")
        assert blockstore("stop", "--kill", NAME, *on(mounted)).returncode == 0
        assert waits.wait(60) == 0
        nothing_is_left(mounted)
    for command in ("console", "stop", "wait"):
        one_line(blockstore(command, NAME, *on(mounted)), 2, f"has no file '{NAME}'")


def test_a_qemu_that_ends_at_once_is_told_with_its_words(lab: Lab) -> None:
    mounted = lab.mount()
    failed = blockstore("run", NAME, "--memory", "64M", *on(mounted), "--detach", "--", *RUNS, "-device", "no-such")
    one_line(failed, 1, "no-such")
    nothing_is_left(mounted)
    kept = blockstore("run", NAME, "--memory", "64M", *on(mounted), "--keep", "--detach", "--", *RUNS, "-device", "no")
    one_line(kept, 1, "no")
    nothing_is_left(mounted)
    one_line(
        blockstore("run", NAME, "--memory", "64M", *on(mounted), "--detach", "--", "no-such-qemu"), 2, "no-such-qemu"
    )
    nothing_is_left(mounted)


def test_many_from_a_snapshot(lab: Lab) -> None:
    mounted = lab.mount()
    with background(mounted, *WITH_CONSOLE):
        assert blockstore("snapshot", NAME, "base", *on(mounted)).returncode == 0
        assert blockstore("stop", "--kill", NAME, *on(mounted)).returncode == 0
        forked = blockstore("fork", "base", "--count", "2", "--name", f"{NAME}-f{{n}}", *on(mounted))
        assert forked.returncode == 0 and forked.stdout.split() == [f"{NAME}-f1", f"{NAME}-f2"], forked
        restored = blockstore("restore", "base", "--as", f"{NAME}-r{{n}}", "--count", "2", "--detach", *on(mounted))
        assert restored.returncode == 0 and restored.stdout.split() == [f"{NAME}-r1", f"{NAME}-r2"], restored
        one_line(blockstore("restore", "base", "--as", "x", "--count", "2", *on(mounted)), 2, "--count", "--detach")
        same = blockstore("restore", "base", "--as", "x", "--count", "2", "--detach", *on(mounted))
        one_line(same, 2, "--as x gives 2 VMs the same name")
        one_line(blockstore("fork", "base", "--qmp", "/nowhere", *on(mounted)), 2, "base is a snapshot")
        names = [f"{NAME}-{each}" for each in ("f1", "f2", "r1", "r2")]
        assert sorted(each for each in os.listdir(mounted.path) if not each.startswith(".")) == names
        assert blockstore("stop", "--kill", *names, *on(mounted)).returncode == 0
        until(lambda: not processes_with(str(mounted.path)), "all have ended")


def test_the_console_is_left_with_a_key(lab: Lab) -> None:
    """On a terminal: what is typed is passed on as it is, and Ctrl-] leaves."""
    mounted = lab.mount()
    with background(mounted, *WITH_CONSOLE):
        ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "blockstore", "console", NAME, *on(mounted)]
        process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE, cwd=PROJECT)
        assert process.stderr is not None and b"Ctrl-] leaves it" in process.stderr.readline()
        until(lambda: not termios.tcgetattr(theirs)[3] & termios.ICANON, "each key is passed on")
        os.write(ours, b"\x03abc\x1d")
        assert process.wait(60) == 0, "Ctrl-C is for the guest"
        assert termios.tcgetattr(theirs)[3] & termios.ICANON, "the terminal is as it was"
        process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=subprocess.DEVNULL, cwd=PROJECT)
        until(lambda: not termios.tcgetattr(theirs)[3] & termios.ICANON, "each key is passed on")
        process.terminate()
        assert process.wait(60) == 130
        assert termios.tcgetattr(theirs)[3] & termios.ICANON, "the terminal is as it was"
        os.close(ours)
        os.close(theirs)
        piped = subprocess.run(command, input=b"", capture_output=True, cwd=PROJECT, timeout=60, check=False)
        assert piped.returncode == 0 and not piped.stderr, piped


def test_the_environment_names_the_mount(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = lab.mount(), lab.mount(name="second")
    (second.path / "file").touch()
    monkeypatch.setenv("BLOCKSTORE_MOUNT", str(second.path))
    assert '"file"' in blockstore("status", "--json").stdout
    assert '"file"' not in blockstore("status", "--json", str(first.path)).stdout
    monkeypatch.setenv("BLOCKSTORE_MOUNT", str(lab.path))
    one_line(blockstore("status"), 1, f"BLOCKSTORE_MOUNT is {lab.path}, which is not a blockstore mount")
