"""`blockstore run`: QEMU's terminal, signals and exit code, and nothing left behind, whoever is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from blockstore.vm.memory import cgroups
from blockstore.vm.qemu.runner import REFUSAL
from tests.cli.runner import invoke
from tests.daemon.lab import (
    NEEDS_QEMU,
    PROJECT,
    Lab,
    Mounted,
    blockstore,
    end,
    ended,
    one_line,
    run,
    said,
    spawn,
    until,
)

pytestmark = [
    pytest.mark.mount,
    NEEDS_QEMU,
]

MIB = 1 << 20
QEMU = ("qemu-system-x86_64", "-nodefaults", "-display", "none", "-accel", "tcg", "-S")
"""A machine that does not start: QEMU has its memory and waits."""

LOOKER = """
import mmap, os, sys
mapping = mmap.mmap(os.open(sys.argv[1], os.O_RDONLY), 0, prot=mmap.PROT_READ)
print("mapped", flush=True)
sys.stdin.read()
"""
"""Maps the memory of a VM, as other servers of the VM or a dump do."""

NAME = f"vm{os.getpid()}"
"""Of all VMs here; others on this machine may have VMs too."""


@pytest.fixture
def mounted(shared: Mounted) -> Mounted:
    """The mount of the tests that need none of their own."""
    return shared


def on(mounted: Mounted) -> tuple[str, str]:
    """Options: other mounts may be there too."""
    return "--mount", str(mounted.path)


def cgroups_left() -> list[str]:
    """Those of VMs of these tests, below our own cgroup and beside it."""
    try:
        own = cgroups.home().path
    except LookupError:
        return []
    return [str(path) for folder in (own, own.parent) for path in folder.glob(f"blockstore-*{NAME}-*")]


def processes_with(text: str) -> list[int]:
    """QEMUs and their shells whose command line has this in it."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            command = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
            if text.encode() in command and (b"qemu" in command.split(b"\0")[0] or b"blockstore-run" in command):
                found.append(int(entry.name))
    return found


def nothing_is_left(mounted: Mounted) -> None:
    # os.walk, for a folder may go while it is looked at.
    until(lambda: not any(entries for *_, entries in os.walk(mounted.path)), "no file is left")
    until(lambda: not os.listdir(mounted.path), "no folder is left")
    until(lambda: not processes_with(str(mounted.path)), "no process is left")
    until(lambda: not cgroups_left(), f"no cgroup is left: {cgroups_left()}")
    until(lambda: mounted.total()["logical"] == 0, "no memory is left")


@contextlib.contextmanager
def running(
    mounted: Mounted, *options: str, name: str = NAME, command: tuple[str, ...] = QEMU
) -> Iterator[subprocess.Popen[str]]:
    """`blockstore run`, with a pipe as its terminal; given when QEMU has its memory mapped."""
    process = subprocess.Popen(
        [sys.executable, "-m", "blockstore", "run", *on(mounted), "--memory", "64M", *options, "--", name, *command],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=PROJECT,
        start_new_session=True,
    )
    before = qemu_of(mounted)
    try:
        until(lambda: process.poll() is not None or len(qemu_of(mounted)) > len(before), "QEMU runs")
        assert process.poll() is None, process.communicate(timeout=10)
        yield process
    finally:
        end(process.pid)
        for pid in set(qemu_of(mounted)) - set(before):
            os.kill(pid, signal.SIGKILL)
        # Before the mount goes, and with it whoever would take it away; later tests look at all that there are.
        until(lambda: not cgroups_left(), "no cgroup is left")


def qemu_of(mounted: Mounted) -> list[int]:
    """The processes that are QEMU by now and have their memory; before that QEMU would make a file that it misses."""
    found = []
    for pid in processes_with(str(mounted.path)):
        with contextlib.suppress(OSError):
            maps = Path(f"/proc/{pid}/maps").read_text(errors="surrogateescape")
            if "qemu" in Path(f"/proc/{pid}/comm").read_text() and f" {mounted.path}/" in maps:
                found.append(pid)
    return found


@pytest.mark.parametrize("name", [NAME, f"blue/{NAME}"], ids=["at the top", "in a domain"])
def test_a_vm_comes_and_goes(lab: Lab, name: str) -> None:
    mounted = lab.mount()
    with running(mounted, "--resident", "32M", name=name) as process:
        volume = mounted.status()["volumes"][name]
        assert volume["logical"] == 64 * MIB
        assert volume["controller"]["pid"] == process.pid and volume["controller"]["wanted"] == 32 * MIB
        (qemu,) = qemu_of(mounted)
        cgroup = cgroups.of_process(qemu)
        command = Path(f"/proc/{qemu}/cmdline").read_bytes()
        assert b"virtio-balloon-pci" in command and b"-m\x0064M" in command
        if "blockstore-" in str(cgroup.path):
            assert sorted(cgroup.pids()) == sorted([process.pid, qemu])
        flags = [line for line in Path(f"/proc/{qemu}/smaps").read_text().splitlines() if line.startswith("VmFlags")]
        assert not any(" hg " in f"{line} " for line in flags), "QEMU's advice to use huge pages was refused"
        one_line(mounted.umount(), 3, mounted.path)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0, "QEMU ends in order at SIGTERM"
    nothing_is_left(mounted)
    assert mounted.umount().returncode == 0


def test_terminal_and_exit_code_are_passed_on(mounted: Mounted, tmp_path: Path) -> None:
    program = tmp_path / "qemu-of-the-test"
    program.write_text('#!/bin/sh\nread line\necho "got $line" "$#"\necho error >&2\nexit 42\n')
    program.chmod(0o755)
    command = [
        sys.executable,
        "-m",
        "blockstore",
        "run",
        *on(mounted),
        NAME,
        "--memory",
        "8M",
        "--no-balloon",
        "--",
        str(program),
        "one",
    ]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=PROJECT
    )
    output, errors = process.communicate("a line\n", timeout=30)
    assert process.returncode == 42 and output == "got a line 13\n", (output, errors)
    assert errors.startswith("error\n") and "ended at once, with exit code 42" in errors
    nothing_is_left(mounted)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGTERM])
def test_signals_are_passed_on(mounted: Mounted, number: signal.Signals) -> None:
    with running(mounted) as process:
        # QEMU may not have come to its handlers yet: until then a shell's background process ignores SIGINT.
        until(lambda: signalled(process, number), "QEMU ends")
        assert process.wait(5) in (0, 128 + number)
    nothing_is_left(mounted)


def signalled(process: subprocess.Popen[str], number: signal.Signals) -> bool:
    """Send it once more; has it ended?"""
    process.send_signal(number)
    return process.poll() is not None


@pytest.mark.parametrize("victim", ["run", "qemu", "both"])
def test_killed(lab: Lab, victim: str) -> None:
    mounted = lab.mount()
    with running(mounted, name=f"blue/{NAME}") as process:
        (qemu,) = qemu_of(mounted)
        for pid in [process.pid] * (victim != "qemu") + [qemu] * (victim != "run"):
            os.kill(pid, signal.SIGKILL)
        assert process.wait(60) == (128 + 9 if victim == "qemu" else -9)
        assert ended(qemu), "the VM ends with the one who started it"
    nothing_is_left(mounted)
    assert mounted.umount().returncode == 0


@pytest.mark.parametrize(
    ("refuses", "code", "words"),
    [(True, 1, ""), (False, 137, "blockstore: /usr/bin/qemu-system-x86_64 was ended by signal 9\n")],
    ids=["by its restore", "by another"],
)
def test_killed_is_said_once(mounted: Mounted, *, refuses: bool, code: int, words: str) -> None:
    """What the shell says of a QEMU that is killed: nothing if `restore` has said why, else which program it was."""
    with running(mounted) as process:
        (qemu,) = qemu_of(mounted)
        os.kill(process.pid if refuses else qemu, REFUSAL if refuses else signal.SIGKILL)
        _, errors = process.communicate(timeout=60)
        assert (process.returncode, errors) == (code, words)
    nothing_is_left(mounted)


@pytest.mark.parametrize("name", [f"({NAME})", f"({NAME} 1)", f"-{NAME} a,b'"], ids=["()", "( )", "- ,'"])
def test_strange_names(mounted: Mounted, name: str) -> None:
    with running(mounted, name=name) as process:
        mounted.controller_ticks()
        assert process.poll() is None and (mounted.path / name).exists(), "the controller leaves it alone"
        process.terminate()
        assert process.wait(60) in (0, 128 + signal.SIGTERM)
    nothing_is_left(mounted)


def test_a_file_that_is_renamed_or_deleted_is_no_end_of_its_vm(mounted: Mounted) -> None:
    with running(mounted) as first:
        (first_qemu,) = qemu_of(mounted)
        (mounted.path / NAME).rename(mounted.path / "elsewhere")
        with running(mounted) as second:
            assert len(qemu_of(mounted)) == 2, "both run"
            first.terminate()
            first.wait(60)
            assert ended(first_qemu)
            until(lambda: not (mounted.path / "elsewhere").exists(), "its own file is deleted, wherever it is")
            assert (mounted.path / NAME).exists(), "and no other one"
            (mounted.path / NAME).unlink()
            mounted.controller_ticks()
            assert second.poll() is None, "a VM does not need the name of its memory"
            second.terminate()
            second.wait(60)
    nothing_is_left(mounted)


def test_whoever_else_looks_at_the_memory_lives_on(mounted: Mounted) -> None:
    with running(mounted) as process:
        looker = spawn(LOOKER, str(mounted.path / NAME))
        try:
            assert said(looker) == "mapped"
            os.kill(process.pid, signal.SIGKILL)
            process.wait(60)
            until(lambda: not qemu_of(mounted) and not cgroups_left(), "the VM has gone")
            mounted.controller_ticks()
            assert looker.poll() is None
        finally:
            end(looker.pid)
    nothing_is_left(mounted)


def test_attach_changes_how_much_stays_of_a_vm_of_run(mounted: Mounted) -> None:
    with running(mounted) as process:
        (qemu,) = qemu_of(mounted)
        for options, wanted in ((("--resident", "32M"), 32 * MIB), (("--off",), "off")):
            assert blockstore("attach", str(qemu), *options).returncode == 0
            control = mounted.status()["volumes"][NAME]["controller"]
            assert control["pid"] == process.pid and control["wanted"] == wanted
        os.kill(process.pid, signal.SIGKILL)
        assert ended(qemu)
    nothing_is_left(mounted)


def test_without_stdin(mounted: Mounted) -> None:
    command = f"{sys.executable} -m blockstore run {' '.join(on(mounted))} {NAME} --memory 8M -- true <&-"
    result = run(["sh", "-c", command])
    assert result.returncode == 0 and "descriptor" not in result.stderr, result
    nothing_is_left(mounted)


def test_keep(mounted: Mounted) -> None:
    with running(mounted, "--keep") as process:
        process.terminate()
        assert process.wait(60) in (0, 128 + signal.SIGTERM)
    assert (mounted.path / NAME).stat().st_size == 64 * MIB and not cgroups_left()
    again = invoke("run", *on(mounted), NAME, "--memory", "64M", "--", *QEMU)
    one_line(again, 3, mounted.path / NAME, "is there already")
    assert (mounted.path / NAME).exists()


def test_a_daemon_that_dies_meanwhile_hurts_nobody(lab: Lab) -> None:
    mounted = lab.mount()
    with running(mounted) as process:
        mounted.kill_daemon()
        assert mounted.status()["volumes"][NAME]["controller"]["pid"] == process.pid
        process.terminate()
        assert process.wait(60) in (0, 128 + signal.SIGTERM)
    nothing_is_left(mounted)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        ([NAME, "--memory", "64M", "--", "no-such-qemu"], 2, "no-such-qemu"),
        ([NAME, "--memory", "64M", "--", *QEMU, "-m", "128M"], 2, "-m 128M"),
        ([NAME, "--memory", "64M", "--", *QEMU, "-machine", "q35,memory-backend=x"], 2, "given twice"),
        ([NAME, "--memory", "64M", "--", *QEMU, "-object", "memory-backend-ram,id=x,size=64M"], 2, "given twice"),
        ([NAME, "--memory", "lots", "--", *QEMU], 2, "lots"),
        ([NAME, "--memory", "1000", "--", *QEMU], 2, "MiB"),
        ([NAME, "--memory", "0", "--", *QEMU], 2, "MiB"),
        ([NAME, "--", *QEMU], 2, "--memory"),
        ([NAME, "--memory", "64M", "--", *QEMU, "-daemonize"], 2, "-daemonize"),
        ([NAME, "--memory", "64M", "--target", "nan", "--", *QEMU], 2, "nan"),
        (["--memory", "64M", "--", "qemu-system-x86_64", "-version"], 2, "NAME"),
        ([NAME, "--memory", "64M"], 2, "COMMAND"),
        (["../vm", "--memory", "64M", "--", *QEMU], 2, "../vm"),
        (["/vm", "--memory", "64M", "--", *QEMU], 2, "/vm"),
        (["a/b/vm", "--memory", "64M", "--", *QEMU], 2, "mkdir -p"),
        ([NAME, "--memory", "64M", "--resident", "65M", "--", *QEMU], 2, "--resident"),
        ([NAME, "--memory", "64M", "--resident", "some", "--", *QEMU], 2, "some"),
        ([NAME, "--memory", "64M", "--mount", "/nowhere", "--", *QEMU], 1, "/nowhere"),
        (["x" * 300, "--memory", "64M", "--", *QEMU], 1, "cannot be made"),
    ],
)
def test_bad_input(mounted: Mounted, arguments: list[str], code: int, words: str) -> None:
    one_line(invoke("run", *on(mounted), *arguments), code, words)
    assert not os.listdir(mounted.path) and not cgroups_left()


def test_a_qemu_that_dies_at_once(mounted: Mounted) -> None:
    result = blockstore("run", *on(mounted), NAME, "--memory", "64M", "--", *QEMU, "-device", "no-such-device")
    first, *_, last = result.stderr.splitlines()
    assert result.returncode == 1 and "no-such-device" in first, result
    assert last.startswith("blockstore: ") and "exit code 1" in last and "Traceback" not in result.stderr
    nothing_is_left(mounted)


@pytest.mark.alone  # a new mount name space keeps all mounts of this machine, and whoever unmounts one is refused
def test_without_permission_for_cgroups(mounted: Mounted) -> None:
    """Falls back to madvise, and says so. The cgroups are made read-only in a mount name space of its own."""
    places = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if "cgroup" in line.split()[2]]
    hide = " && ".join(f"mount -o remount,bind,ro {place}" for place in places)
    arguments = " ".join((*on(mounted), NAME, "--memory", "64M", "--", *QEMU))
    command = f"{hide} && exec {sys.executable} -m blockstore run {arguments}"
    process = subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", command],
        stderr=subprocess.PIPE,
        text=True,
        cwd=PROJECT,
        start_new_session=True,
    )
    try:
        until(lambda: process.poll() is not None or bool(qemu_of(mounted)), "QEMU runs")
        until(
            lambda: mounted.status()["volumes"][NAME]["controller"]["mechanism"] == "madvise", "the controller knows it"
        )
        process.terminate()
        assert process.wait(60) in (0, 128 + signal.SIGTERM) and process.stderr is not None
        assert "no memory cgroup" in process.stderr.read()
    finally:
        end(process.pid)
    nothing_is_left(mounted)


def test_the_name_is_taken(mounted: Mounted) -> None:
    with running(mounted):
        one_line(invoke("run", *on(mounted), NAME, "--memory", "64M", "--", *QEMU), 3, mounted.path / NAME)
        assert mounted.status()["volumes"][NAME]["controller"] is not None
    nothing_is_left(mounted)
