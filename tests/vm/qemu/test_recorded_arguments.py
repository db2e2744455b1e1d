"""A VM's command line, made ready for another VM."""

from __future__ import annotations

import pytest

from blockstore.errors import InputError
from blockstore.vm.qemu.qemu_arguments import with_memory, with_monitor
from blockstore.vm.qemu.recorded_arguments import check_for_another, filled_in, has_console, recorded, with_console

SERVED = "fd=12,server=on,wait=off"


def test_what_run_adds_is_taken_out_again() -> None:
    given = [
        "-nodefaults",
        "-machine",
        "q35",
        "-m",
        "1G",
        "-device",
        "virtio-balloon-pci",
        "-drive",
        "file=disk,if=virtio",
    ]
    started = with_monitor(with_memory(given, "/mnt/vm", 1 << 30, balloon=True), 12)
    assert len(started) > len(given) and recorded(started) == given


def test_what_belongs_to_one_vm_is_taken_out() -> None:
    arguments = ["-S", "-daemonize", "-pidfile", "/run/vm", "-incoming", "defer", "-qmp", "unix:/run/qmp,server=on"]
    arguments += ["-machine", "q35,memory-backend=ram0,usb=off", "-object", "memory-backend-file,id=ram0,size=1G"]
    arguments += ["-chardev", "socket,id=mon0,path=/run/q,server=on", "-mon", "chardev=mon0,mode=control", "-smp", "2"]
    assert recorded(arguments) == ["-machine", "q35,usb=off", "-smp", "2"]


@pytest.mark.parametrize(
    ("given", "apart"),
    [
        (["-serial", "mon:stdio"], ["-serial", "chardev:blockstore-console"]),
        (["-chardev", "stdio,id=c0,signal=off", "-serial", "chardev:c0"], ["-chardev", f"socket,id=c0,{SERVED}"]),
        (["-monitor", "stdio"], ["-monitor", "none"]),
    ],
)
def test_a_terminal_becomes_a_socket_and_back(given: list[str], apart: list[str]) -> None:
    changed = with_console(["-smp", "2", *given], 12)
    assert has_console(given) and changed[2:4] == apart
    if "-monitor" not in given:
        assert recorded(changed) == ["-smp", "2", *given]


def test_without_a_terminal_nothing_changes() -> None:
    given = ["-display", "none", "-serial", "file:/tmp/log", "-append", "console=ttyS0 quiet"]
    assert not has_console(given) and with_console(given, 12) == given and recorded(given) == given


@pytest.mark.parametrize(
    "arguments",
    [
        ["-netdev", "user,id=n,hostfwd=tcp::2222-:22"],
        ["-chardev", "socket,id=c,fd=5"],
        ["-chardev", "socket,id=c,path=/run/c,server=on"],
        ["-serial", "unix:/run/serial,server,nowait"],
        ["-netdev", "tap,id=n,fds=3:4"],
    ],
)
def test_what_two_vms_cannot_have_is_named(arguments: list[str]) -> None:
    with pytest.raises(InputError, match="behind --") as caught:
        check_for_another(["-smp", "2", *arguments])
    assert arguments[1] in str(caught.value)


def test_what_two_vms_can_have_is_let_through() -> None:
    check_for_another(["-netdev", "user,id=n", "-device", "virtio-net-pci,netdev=n", "-drive", "file=a,format=raw"])


def test_only_known_words_in_braces_are_filled_in() -> None:
    arguments = ["file=/disks/{name}-{n}.qcow2", '{"driver": "virtio-net-pci", "mac": "{mac}"}']
    filled = filled_in(arguments, {"name": "vm", "n": "7", "mac": "52:54:00:00:00:07"})
    assert filled == ["file=/disks/vm-7.qcow2", '{"driver": "virtio-net-pci", "mac": "52:54:00:00:00:07"}']
