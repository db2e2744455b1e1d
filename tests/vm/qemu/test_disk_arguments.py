"""Where a command line says a disk, an overlay takes its place; never one in the place of another format."""

from __future__ import annotations

from pathlib import Path

import pytest

from blockstore.vm.qemu.disk_arguments import Disk, Layer, with_placeholders

RAW = Disk([Layer(Path("/d/disk.raw"), "raw")], "n", 1)
QCOW2 = Disk([Layer(Path("/d/disk.qcow2"), "qcow2")], "n", 1)
MOVED = Disk([Layer(Path("/o/vm.qcow2"), "qcow2"), Layer(Path("/d/disk.raw"), "raw")], "n", 1)


@pytest.mark.parametrize(
    ("given", "disk", "expected"),
    [
        (["-drive", "file=disk.raw,format=raw,if=virtio"], RAW, ["-drive", "file={disk1},format=qcow2,if=virtio"]),
        (["-drive", "if=none,file=/d/disk.raw"], MOVED, ["-drive", "file={disk1},format=qcow2,if=none"]),
        (["-nographic", "disk.qcow2"], QCOW2, ["-nographic", "{disk1}"]),
        (["disk.raw"], RAW, ["{disk1}"]),
        (["-hda", "/d/disk.raw", "-smp", "2"], MOVED, ["-hda", "{disk1}", "-smp", "2"]),
        (
            ["-blockdev", "driver=qcow2,node-name=d,file.driver=file,file.filename=/d/disk.qcow2"],
            QCOW2,
            ["-blockdev", "driver=qcow2,node-name=d,file.driver=file,file.filename={disk1}"],
        ),
        (
            ["-blockdev", '{"driver":"file","filename":"/d/disk.qcow2","node-name":"f"}'],
            QCOW2,
            ["-blockdev", '{"driver":"file","filename":"{disk1}","node-name":"f"}'],
        ),
    ],
)
def test_a_disk_is_found(given: list[str], disk: Disk, expected: list[str]) -> None:
    assert with_placeholders(given, Path("/d"), [disk]) == expected


@pytest.mark.parametrize(
    ("given", "disk"),
    [
        (["-blockdev", "driver=file,node-name=f,filename=/d/disk.raw"], RAW),
        (["-blockdev", "driver=raw,file.driver=file,file.filename=/d/disk.raw"], MOVED),
        (["-drive", "file=/e/disk.raw"], RAW),
        (["-drive", "file=/d/disk,,raw"], RAW),
    ],
)
def test_what_cannot_be_exchanged_is_left(given: list[str], disk: Disk) -> None:
    assert with_placeholders(given, Path("/d"), [disk]) == given


def test_several_disks_and_commas() -> None:
    other = Disk([Layer(Path("/d/a,b"), "raw")], "m", 1)
    given = ["-drive", "file=a,,b,serial=x,,y", "-drive", "file=disk.raw"]
    expected = ["-drive", "file={disk2},format=qcow2,serial=x,,y", "-drive", "file={disk1},format=qcow2"]
    assert with_placeholders(given, Path("/d"), [RAW, other]) == expected
