"""The image that QEMU keeps the state of a VM in, against QEMU's own tools."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from pathlib import Path

import pytest

from blockstore.errors import VmError
from blockstore.vm.qemu import qcow2

pytestmark = pytest.mark.skipif(shutil.which("qemu-io") is None, reason="needs qemu-io (Debian: qemu-utils)")

KIB = 1 << 10
STATE_BYTES = 300 * KIB + 7
SNAPSHOT_TABLE, SIZE_IN_ENTRY = 64, 40
"""Where the header says where the table is, and where the size of the state stands in its first entry."""


def done(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=60)


def test_the_state_is_what_was_written(tmp_path: Path) -> None:
    image = tmp_path / "image.qcow2"
    image.write_bytes(qcow2.empty())
    done("qemu-img", "check", str(image))
    done("qemu-io", "-c", "write -b -P 0xab 0 100k", "-c", "write -b -P 0xcd 200k 1k", str(image))
    done("qemu-img", "snapshot", "-c", "devices", str(image))
    with image.open("r+b") as file:
        (table,) = struct.unpack(">Q", os.pread(file.fileno(), 8, SNAPSHOT_TABLE))
        os.pwrite(file.fileno(), struct.pack(">Q", STATE_BYTES), table + SIZE_IN_ENTRY)  # 0, for qemu-img has no VM
        found = b"".join(qcow2.state_of(file.fileno()))
    wanted = bytearray(STATE_BYTES)
    wanted[: 100 * KIB] = b"\xab" * (100 * KIB)
    wanted[200 * KIB : 201 * KIB] = b"\xcd" * KIB
    assert found == wanted


def test_no_state(tmp_path: Path) -> None:
    image = tmp_path / "image.qcow2"
    image.write_bytes(qcow2.empty())
    with image.open("rb") as file, pytest.raises(VmError, match="0 device states"):
        list(qcow2.state_of(file.fileno()))
