"""The devices of a VM that stands still, saved by its QEMU, which leaves the VM as it is otherwise.

A migration saves them too, but QEMU gives the VM's disks away at its end: they are not locked any more, and only
`cont`, which lets the guest run, takes them back, if no other process has taken them meanwhile. So QEMU is told to keep
an internal snapshot (snapshot-save) of a disk that only it sees, a qcow2 image in memory. The state in it is the same
stream. (migration/savevm.c in QEMU's sources)
"""

from __future__ import annotations

import contextlib
import os
from typing import Final

from blockstore.errors import VmError
from blockstore.vm.qemu import qcow2
from blockstore.vm.qemu.monitor import Command, Monitor, Refused
from blockstore.vm.qemu.running import SNAPSHOT_SAVE

SAVE_S: Final = 30.0
"""Devices take 10 ms to be saved, the memory of a graphics card longer."""

_PREFIX: Final = "blockstore-"
_TAG: Final = "devices"


class DeviceState:
    """One that is to be saved: `prepare` it before the VM is stopped, `save` it then. `leavings` are what removes from
    QEMU what these have made; QEMU refuses those that remove nothing."""

    def __init__(self) -> None:
        """The image is there until `close`."""
        self.name = f"{_PREFIX}{os.urandom(6).hex()}"
        self._fdset = int.from_bytes(os.urandom(4)) >> 1  # QEMU wants an int
        self._image = os.memfd_create(self.name)
        os.pwrite(self._image, qcow2.empty(), 0)
        self.leavings: list[Command] = [
            ("job-dismiss", {"id": self.name}),
            ("blockdev-del", {"node-name": self.name}),
            ("remove-fd", {"fdset-id": self._fdset}),
        ]

    def prepare(self, monitor: Monitor) -> None:
        """Let QEMU open the image. Raises VmError."""
        monitor.add_descriptor(self._image, self._fdset)
        cache = {"no-flush": True}
        file = {"driver": "file", "filename": f"/dev/fdset/{self._fdset}", "locking": "off", "cache": cache}
        monitor.execute("blockdev-add", {"driver": "qcow2", "node-name": self.name, "file": file, "cache": cache})

    def save(self, monitor: Monitor) -> None:
        """The VM stands still. Raises VmError."""
        where = {"vmstate": self.name, "devices": [self.name]}
        monitor.execute(SNAPSHOT_SAVE, {"job-id": self.name, "tag": _TAG, **where})
        if failure := monitor.wait_for_job(self.name, SAVE_S):
            raise VmError(f"the devices of the VM could not be saved: {failure}")

    def leave(self, monitor: Monitor) -> None:
        """Nothing of it is in QEMU afterwards. Raises VmError."""
        monitor.wait_for_job(self.name, SAVE_S)
        for command in self.leavings:
            with contextlib.suppress(Refused):  # it has not come to be there
                monitor.execute(*command)

    def copy(self, target: int) -> None:
        """Write what was saved into an empty file. Raises VmError."""
        with os.fdopen(target, "wb", closefd=False) as file:
            for part in qcow2.state_of(self._image):
                file.write(part)

    def close(self) -> None:
        """The image is empty afterwards: QEMU 7.2 keeps a descriptor that it was given until the VM runs again."""
        os.ftruncate(self._image, 0)
        os.close(self._image)
