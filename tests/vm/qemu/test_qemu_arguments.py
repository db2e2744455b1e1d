"""What is added to QEMU's command line, and what is refused."""

from __future__ import annotations

import pytest

from blockstore.errors import InputError
from blockstore.vm.qemu.qemu_arguments import with_memory, with_monitor

GIB = 1 << 30


def added(*arguments: str, balloon: bool = True, path: str = "/mnt/vm") -> list[str]:
    result = with_memory(arguments, path, GIB, balloon=balloon)
    assert result[: len(arguments)] == list(arguments)
    return result[len(arguments) :]


def test_memory_size_and_balloon_are_added() -> None:
    backend = f"memory-backend-file,id=blockstore0,size={GIB},share=on,mem-path=/mnt/vm"
    memory = ["-object", backend, "-machine", "memory-backend=blockstore0"]
    balloon = ["-device", "virtio-balloon-pci,id=blockstore-balloon,free-page-reporting=on"]
    assert added("-nographic") == [*memory, "-m", "1024M", *balloon]
    assert added("-nographic", balloon=False) == [*memory, "-m", "1024M"]
    assert added("-device", "virtio-balloon-pci,id=mine") == [*memory, "-m", "1024M"]
    assert "virtio-balloon-device" in " ".join(added("-M", "microvm"))


@pytest.mark.parametrize(
    "size", ["1G", "1024", "1024M", "1g", "1048576K", "1073741824B", "size=1G", "1G,slots=2,maxmem=4G"]
)
def test_a_size_that_agrees(size: str) -> None:
    assert "-m" not in added("-m", size) and "-m" not in added("--m", size)


@pytest.mark.parametrize("size", ["512", "2G", "1", "lots", ""])
def test_a_size_that_does_not(size: str) -> None:
    with pytest.raises(InputError, match="1024 MiB of --memory"):
        added("-m", size)


@pytest.mark.parametrize(
    "arguments",
    [
        ("-machine", "q35,memory-backend=ram0"),
        ("-M", "q35,memory-backend=ram0"),
        ("-object", "memory-backend-ram,id=ram0,size=1G"),
        ("-object", "memory-backend-file,id=ram0,size=1G,mem-path=/x"),
        ("-object", '{"qom-type":"memory-backend-memfd","id":"x"}'),
        ("-mem-path", "/x"),
        ("--mem-prealloc",),
        ("-numa", "node,memdev=ram0"),
    ],
)
def test_memory_from_elsewhere_is_refused(arguments: tuple[str, ...]) -> None:
    with pytest.raises(InputError, match="leave"):
        added(*arguments)


def test_other_objects_and_commas_in_paths() -> None:
    assert added("-object", "iothread,id=one", "-numa", "cpu,node-id=0", "-machine", "q35,accel=tcg")
    assert "mem-path=/mnt/a,,b" in added(path="/mnt/a,b")[1]


@pytest.mark.parametrize(
    ("given", "named"),
    [
        (["-nographic"], ["-serial", "mon:stdio"]),
        (["-nographic", "-serial", "file:log"], ["-monitor", "stdio"]),
        (["-nographic", "-serial", "mon:stdio"], []),
        (["-display", "none"], ["-monitor", "vc:80Cx24C"]),
        (["-nodefaults", "-nographic"], []),
        (["-nographic", "-monitor", "none"], []),
        (["-nographic", "-qmp", "unix:/run/qmp,server=on,wait=off"], []),
    ],
)
def test_a_monitor_of_ours_takes_none_of_the_users_away(given: list[str], named: list[str]) -> None:
    """QEMU makes its default monitor only where no other one is named: Ctrl-A C must still lead there."""
    mon = [
        "-chardev",
        "socket,id=blockstore-qmp,fd=12,server=on,wait=off",
        "-mon",
        "chardev=blockstore-qmp,mode=control",
    ]
    assert with_monitor(given, 12) == [*given, *named, *mon]
