"""VMs are attached without being asked for, by what is mapped, and by nothing else."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from blockstore.daemon.control.attachments import AUTO, BY_CONTROLLER, OFF, Attachment
from blockstore.daemon.host.memory_limit import V1
from blockstore.daemon.host.mounts import Mapping, Mount
from blockstore.daemon.host.process_stat import start_time
from blockstore.vm.control.auto_attach import FIRST_LOOK_S, HELD_S, LARGEST_COST, LONGEST_WAIT_S, AutoAttach
from tests.daemon.lab import Lab, Mounted, ask, blockstore, end, one_line, put, said, spawn, until
from tests.vm.control.test_controller import MIB, VM

MOUNT = Mount(Path("/mnt"), "0:9", Path("/state"))
US = os.getpid()


class Host:
    """The mappings that there are; `looks` counts how often they were asked for."""

    def __init__(self) -> None:
        self.mapped: list[Mapping] = []
        self.open: set[tuple[int, int]] = set()
        self.looks = 0
        self.cost_s = 0.0
        self.auto = AutoAttach(
            self._mappings, lambda pid, number: (pid, number) in self.open, lambda: self.looks * self.cost_s
        )

    def map(self, number: int, pid: int = US, *, shared: bool = True, writable: bool = True) -> None:
        self.mapped.append(Mapping(pid, 4096, MIB, 0, number, f"/mnt/vm{number}", shared, writable))

    def look(self, now_s: float, *wanted: int, others: tuple[int, ...] = (), attached: Any = None) -> list[Attachment]:
        files = {number: {"name": f"vm{number}", "is_wanted": number in wanted} for number in (*wanted, *others)}
        return self.auto.look(MOUNT, files, attached or {}, now_s)

    def _mappings(self, mount: Mount) -> list[Mapping]:
        self.looks += 1
        return self.mapped


def test_a_process_that_holds_its_mapping_is_attached_once() -> None:
    host = Host()
    host.map(7)
    assert not host.look(0.0, 7), "not at once: most who open a file are done with it soon"
    assert not host.look(FIRST_LOOK_S, 7)
    assert not host.look(FIRST_LOOK_S + HELD_S / 2, 7) and host.looks == 1
    (made,) = host.look(FIRST_LOOK_S + HELD_S, 7)
    assert (made.volume, made.pid, made.started) == (7, US, start_time(US))
    assert (made.resident, made.by, made.owned) == (AUTO, BY_CONTROLLER, False)
    assert not host.look(FIRST_LOOK_S + 2 * HELD_S), "it is attached now"


def test_what_is_no_vm_is_left_alone() -> None:
    host = Host()
    host.map(1, shared=False)
    host.map(2, writable=False)
    host.map(3)
    for now_s in range(100):
        assert not host.look(float(now_s), 1, 2, others=(3, 4))
        host.mapped = [each for each in host.mapped if each.inode != 3 or now_s % 2]
    assert host.looks < 12, "looked for more and more seldom"
    before = host.looks
    for now_s in range(100, 700):
        assert not host.look(float(now_s), 1, 2)
    assert host.looks - before <= 600 / LONGEST_WAIT_S + 1


def test_one_process_after_the_other_is_none_that_holds_it() -> None:
    host = Host()
    for now_s in range(60):
        host.mapped = []
        host.map(7, pid=1 if host.looks % 2 else US)
        assert not host.look(float(now_s), 7)


def test_a_mapping_that_is_made_anew_is_held_anew() -> None:
    host = Host()
    for now_s in range(60):
        host.mapped = [Mapping(US, 4096 * (1 + host.looks % 2), MIB, 0, 7, "/mnt/vm7", True, True)]
        assert not host.look(float(now_s), 7)


def test_looks_that_take_long_are_seldom() -> None:
    host = Host()
    host.cost_s = 0.04
    for now_s in range(1000):
        assert not host.look(float(now_s), now_s, now_s + 1), "there is a new file each second"
    assert host.looks <= 1000 * LARGEST_COST / host.cost_s + 1


def test_a_slow_machine_is_not_put_off_for_ever() -> None:
    host = Host()
    host.cost_s = 5.0
    host.map(7)
    made = [attachment for now_s in range(40) for attachment in host.look(float(now_s), 7)]
    assert made, "within two pauses"


def test_of_several_processes_it_is_the_one_that_has_the_file_open() -> None:
    host = Host()
    host.map(7, pid=1)
    host.map(7, pid=US)
    host.open.add((US, 7))
    host.look(0.0, 7)
    host.look(FIRST_LOOK_S, 7)
    (made,) = host.look(FIRST_LOOK_S + HELD_S, 7)
    assert made.pid == US


@pytest.mark.parametrize("resident", [AUTO, OFF, 16 * MIB])
@pytest.mark.parametrize("process", [os.getpid, os.getppid], ids=["its own", "of run"])
def test_memory_that_is_plugged_in_is_held_as_the_vm_is(resident: int | str, process: Callable[[], int]) -> None:
    """A VM of `run` is attached by the shell around its QEMU."""
    host, pid = Host(), process()
    host.map(8)
    vm = Attachment(7, pid, start_time(pid), resident, 0.05, "/cgroup", V1, 5, owned=True, least_bytes=MIB)
    attached = {7: vm}
    host.look(0.0, others=(8,), attached=attached)
    host.look(FIRST_LOOK_S, others=(8,), attached=attached)
    (made,) = host.look(FIRST_LOOK_S + HELD_S, others=(8,), attached=attached)
    assert (made.volume, made.pid, made.target_share, made.least_bytes) == (8, pid, 0.05, MIB)
    assert (made.by, made.owned) == (BY_CONTROLLER, False)
    if isinstance(resident, int):
        assert (made.resident, made.cgroup) == (AUTO, ""), "another size would hold for the whole cgroup"
    else:
        assert (made.resident, made.cgroup, made.cgroup_limit_bytes) == (resident, "/cgroup", 5)


def controller_of(mounted: Mounted, name: str) -> dict[str, Any] | None:
    found: dict[str, Any] | None = mounted.status()["volumes"][name]["controller"]
    return found


def attached(mounted: Mounted, name: str) -> Callable[[], bool]:
    return lambda: controller_of(mounted, name) is not None


@pytest.mark.mount
@pytest.mark.logs(r"the daemon died \(signal 9\)")
def test_every_vm_of_a_mount(lab: Lab) -> None:
    mounted = lab.mount("--attach", "auto")
    put(mounted.path / "vm1", bytes(range(256)) * 4096)
    put(mounted.path / "vm2", bytes(range(256)) * 4096)
    process = spawn(VM, str(mounted.path / "vm1"))
    try:
        assert said(process) == "ready"
        until(attached(mounted, "vm1"), "the VM is attached")
        found = controller_of(mounted, "vm1")
        assert found is not None
        assert (found["pid"], found["attached_by"], found["wanted"]) == (process.pid, "auto", "auto")
        assert controller_of(mounted, "vm2") is None, "no process has it mapped"
        table = blockstore("status", str(mounted.path)).stdout
        assert any(line.split()[:4] == ["vm1", str(process.pid), "auto", "auto"] for line in table.splitlines()), table

        by_file = blockstore("attach", str(mounted.path / "vm1"), "--resident-min", "8M")
        assert by_file.returncode == 0, by_file
        found = controller_of(mounted, "vm1")
        assert found is not None and (found["attached_by"], found["least"]) == ("attach", 8 * MIB)

        assert blockstore("attach", str(process.pid), "--off").returncode == 0
        ticks = mounted.total()["controller_ticks"]
        until(lambda: mounted.total()["controller_ticks"] > ticks + 6, "the controller has looked for VMs again")
        found = controller_of(mounted, "vm1")
        assert found is not None and found["wanted"] == "off", "it stays off"
        os.kill(mounted.daemon_pid(), signal.SIGKILL)
        until(lambda: mounted.total()["controller_ticks"] > 6, "the next controller has looked")
        found = controller_of(mounted, "vm1")
        assert found is not None and found["wanted"] == "off"
        ask(process, "touch 0 10")
    finally:
        end(process.pid)
    until(lambda: controller_of(mounted, "vm1") is None, "it is let go when it ends")


@pytest.mark.mount
def test_patterns(lab: Lab) -> None:
    mounted = lab.mount("--attach", "libvirt/*", "--attach", "blue/vm?")
    for name in ("libvirt", "blue"):
        (mounted.path / name).mkdir()
    names = ("libvirt/vm", "blue/vm1", "blue/other")
    for name in names:
        put(mounted.path / name, bytes(range(256)) * 4096)
    processes = [spawn(VM, str(mounted.path / name)) for name in names]
    try:
        assert [said(process) for process in processes] == ["ready"] * 3
        until(attached(mounted, "libvirt/vm"), "the first is attached")
        until(attached(mounted, "blue/vm1"), "the second is attached")
        ticks = mounted.total()["controller_ticks"]
        until(lambda: mounted.total()["controller_ticks"] > ticks + 6, "the controller has looked for VMs again")
        assert controller_of(mounted, "blue/other") is None
        assert blockstore("set", str(mounted.path), "--attach", "auto").returncode == 0
        until(attached(mounted, "blue/other"), "the third is attached")
    finally:
        for process in processes:
            end(process.pid)


@pytest.mark.mount
def test_bad_input(lab: Lab) -> None:
    mounted = lab.mount()
    for options, words in (
        (("auto", "none"), ("--attach auto and --attach none stand alone",)),
        (("none", "vm*"), ("stand alone",)),
        (("x" * 2100,), ("more than 2048 bytes",)),
    ):
        given = [word for each in options for word in ("--attach", each)]
        one_line(blockstore("set", str(mounted.path), *given), 2, *words)
    one_line(blockstore("attach"), 2, "name one VM")
    one_line(blockstore("attach", "1", "--domain", "vm1"), 2, "name one VM")
    one_line(blockstore("attach", str(mounted.path / "vm1")), 2, "no process that can be seen here has", "vm1 mapped")
    one_line(blockstore("attach", "/elsewhere"), 2, "neither the number of a process nor a file of")
    one_line(blockstore("attach", "\u00b2"), 2, "neither the number of a process nor a file of")
    (lab.path / "link").symlink_to(mounted.path)
    one_line(blockstore("attach", str(lab.path / "link/vm1")), 2, "no process that can be seen here has")
    one_line(blockstore("attach", "1", "--resident", "16M", "--resident-min", "32M"), 2, "--resident-min is more than")
