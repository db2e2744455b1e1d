"""`blockstore fork` and `restore`: what they refuse, and that nothing half-made is left. With guests: tests/guest."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from blockstore.errors import VmError
from blockstore.vm import resident
from blockstore.vm.fork.prefetch import Prefetch
from blockstore.vm.qemu import qmp_sockets
from blockstore.vm.qemu.monitor import Monitor
from blockstore.vm.snapshot import working_set
from tests.cli.runner import invoke
from tests.cli.vms.test_run import NAME, on, processes_with, running
from tests.cli.vms.test_snapshot import KILLED, RUNS, is_running
from tests.daemon.lab import NEEDS_QEMU, PROJECT, Lab, Mounted, blockstore, end, noisy, one_line, put, run, until

pytestmark = [
    pytest.mark.mount,
    NEEDS_QEMU,
]


@pytest.fixture
def mounted(shared: Mounted) -> Mounted:
    """The mount of the tests that need none of their own."""
    return shared


def left(mounted: Mounted) -> list[str]:
    return sorted(os.listdir(mounted.path))


def test_a_fork_that_is_killed_leaves_no_vm(mounted: Mounted) -> None:
    with running(mounted, command=RUNS):
        killed = run(
            [sys.executable, "-c", KILLED, "fork._bring_up:before", "fork", *on(mounted), NAME, "--count", "2"]
        )
        assert killed.returncode == -signal.SIGKILL, killed
        until(lambda: not processes_with(f"{mounted.path}/{NAME}-"), "the new VMs end")
        until(lambda: not list(mounted.path.glob(f"{NAME}-*")), "and their memory is gone")
        assert is_running(mounted)
        assert not blockstore("snapshots", *on(mounted)).stdout


def test_bad_input(mounted: Mounted, tmp_path: Path) -> None:
    plain = tmp_path / "no-program"
    plain.write_text("")
    with running(mounted, command=(*RUNS, "-netdev", "user,id=n,hostfwd=tcp:127.0.0.1:0-:22")):
        for arguments, code, words in (
            ([NAME], 2, ("hostfwd", "behind --")),
            ([NAME, "--count", "0", "--", *RUNS], 2, ("--count",)),
            ([NAME, "--count", "2", "--name", "same", "--", *RUNS], 2, ("same", "{n}")),
            ([NAME, "--name", "blue/vm", "--", *RUNS], 2, ("domain", "vm")),
            ([NAME, "--name", NAME, "--", *RUNS], 3, (mounted.path / NAME, "--name")),
            ([NAME, "--hook", str(plain), "--", *RUNS], 2, (plain, "executable")),
            ([NAME, "--hook", "/nowhere", "--", *RUNS], 2, ("/nowhere",)),
            (["nothing", "--", *RUNS], 2, ("nothing",)),
            ([NAME, "--", "no-such-qemu"], 2, ("no-such-qemu",)),
            ([NAME, "--", "-nographic"], 2, ("-nographic",)),
        ):
            one_line(invoke("fork", *on(mounted), *arguments), code, *words)
            until(lambda: left(mounted) == [NAME], f"{arguments}: nothing is left")
        assert is_running(mounted)


def test_restore_refuses(mounted: Mounted) -> None:
    one_line(invoke("restore", *on(mounted), "base", "--as", "vm2"), 2, "base", "snapshots")
    one_line(invoke("restore", *on(mounted), "base"), 2, "--as")
    one_line(invoke("restore", *on(mounted), "base", "--as", "../vm"), 2, "../vm")
    put(mounted.path / ".base.snapshot", noisy(1 << 20, 1))
    one_line(invoke("restore", *on(mounted), "base", "--as", "vm2"), 4, "base.snapshot", "damaged")
    listed = blockstore("snapshots", *on(mounted))
    assert listed.returncode == 0 and not listed.stdout and "damaged" in listed.stderr
    assert blockstore("snapshots", "delete", "base", *on(mounted)).returncode == 0 and not left(mounted)


def test_a_qemu_with_other_devices_is_no_restored_vm(mounted: Mounted) -> None:
    with running(mounted, command=RUNS):
        assert blockstore("snapshot", *on(mounted), NAME, "base").returncode == 0
        other = (*RUNS, "-device", "virtio-rng-pci", "-machine", "q35")
        result = blockstore("restore", *on(mounted), "base", "--as", "vm2", "--", *other)
        assert result.returncode == 1 and "Traceback" not in result.stderr and "Killed" not in result.stderr, result
        assert result.stderr.count("blockstore: ") == 1, f"QEMU has said why: {result}"
        until(lambda: left(mounted) == [".base.snapshot", NAME], "nothing is left of it")
        assert is_running(mounted)
        assert Path(mounted.path / ".base.snapshot").exists()


@contextmanager
def restored(mounted: Mounted, *options: str) -> Iterator[None]:
    """`blockstore restore` of `base`, which waits for what is prefetched; inside its VM runs."""
    (folder := mounted.state.parent / "patience").mkdir(exist_ok=True)
    (folder / "sitecustomize.py").write_text("import blockstore.vm.fork.prefetch as prefetch\nprefetch.WAIT_S = 60.0\n")
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-m", "blockstore", "restore", *on(mounted), "base", "--as", "vm2", *options]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, cwd=PROJECT, env=environment, start_new_session=True)
    try:
        until(lambda: process.poll() is not None or runs(mounted, "vm2"), "the VM runs")
        assert process.poll() is None
        yield
    finally:
        end(process.pid)
        until(lambda: not (mounted.path / "vm2").exists(), "its memory is gone")


def runs(mounted: Mounted, name: str) -> bool:
    try:
        volume = (mounted.path / name).stat().st_ino
        with Monitor(qmp_sockets.path_of(mounted.state, qmp_sockets.QMP, volume), name) as asked:
            return bool(asked.execute("query-status")["running"])
    except (OSError, VmError):
        return False


def resident_blocks(mounted: Mounted, name: str) -> int:
    return resident.of_file(mounted.path / name).resident // 4096


def test_the_first_restored_vm_is_watched_and_the_next_ones_have_their_memory_read(lab: Lab) -> None:
    mounted = lab.mount()
    with running(mounted, command=RUNS):
        assert blockstore("snapshot", *on(mounted), NAME, "base").returncode == 0
    origin = (mounted.path / ".base.snapshot").stat().st_ino
    place = working_set.path_of(mounted.state, origin)
    with restored(mounted, "--no-prefetch"):
        Prefetch(lab.path, origin).follow(mounted.path / "vm2")
        until(working_set.path_of(lab.path, origin).exists, "a look that begins now has ended")
        assert not place.exists(), "nobody looks"
    with restored(mounted):
        until(place.exists, "it is recorded")
        recorded = sum(run.blocks for run in working_set.load(mounted.state, int(place.name.rsplit("-", 1)[-1])))
        # Not "what is resident now": the union of several looks, and pages may have left since the first of them.
        assert 0 < recorded < (mounted.path / "vm2").stat().st_size // 4096
        assert mounted.status()["volumes"]["vm2"]["refaults"] > 0
    with restored(mounted):
        assert resident_blocks(mounted, "vm2") >= recorded
        assert mounted.status()["volumes"]["vm2"]["refaults"] == 0, "all that it asks for is there"
    place.write_bytes(b"damaged")
    with restored(mounted):
        until(lambda: place.stat().st_size > 40, "a damaged one is recorded anew")
    assert blockstore("snapshots", "delete", "base", *on(mounted)).returncode == 0
    assert not list(mounted.state.glob("working-set-*"))
