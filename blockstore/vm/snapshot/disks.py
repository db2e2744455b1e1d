"""Disks of a VM that runs, while it is kept or forked: it goes on in an overlay over each that it writes to, and the
file that it has written until then stays as it is, below the overlays of all. It stands still when they are changed,
all at once. (docs/interop/live-block-operations.rst in QEMU's sources)
"""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any, Final

from blockstore.errors import InputError, VmError
from blockstore.vm.qemu.disk_arguments import Disk, Layer
from blockstore.vm.qemu.monitor import Monitor
from blockstore.vm.qemu.running import Running
from blockstore.vm.snapshot import overlays
from blockstore.vm.snapshot.overlays import FORMAT, Base

MAXIMUM_LAYERS: Final = 32
"""Files that one disk is made of. QEMU has each open, and looks into all of them for what was never written."""

_NODE_PREFIX: Final = "blockstore-"


class Moving:
    """All disks that a VM writes to, on their way to overlays in a folder: `targets`."""

    def __init__(self, vm: Running, folder: Path) -> None:
        """Ask QEMU which. Raises InputError, VmError."""
        self.vm = vm
        with Monitor(vm.socket, vm.name) as monitor:
            found = monitor.execute("query-block")
        inserted = [each["inserted"] for each in found if each.get("inserted") and not each["inserted"]["ro"]]
        if not inserted:
            raise InputError(f"{vm.name} has no disk that it writes to; leave out --disks")
        self.disks = [_disk(vm, each) for each in inserted]
        self.targets = [overlays.next_path(folder, vm.name, number) for number in range(1, len(self.disks) + 1)]
        self.is_moved = False

    def prepare(self, watched: int) -> None:
        """Make the overlays, while the guard watches a descriptor; the VM runs, and has its disks open. Raises a
        sentence."""
        for disk, target in zip(self.disks, self.targets, strict=True):
            top = disk.layers[0]
            overlays.make(top.format, top.path, target, lambda path: None, watched, disk.size_bytes)

    def move(self, monitor: Monitor) -> tuple[Base, ...]:
        """Let the VM, which stands still, go on in them: in all or in none. The bases for others. Raises VmError."""
        actions = [
            {
                "type": "blockdev-snapshot-sync",
                "data": {
                    "node-name": disk.node,
                    "snapshot-file": str(target),
                    "snapshot-node-name": f"{_NODE_PREFIX}{os.urandom(6).hex()}",
                    "format": FORMAT,
                    "mode": "existing",
                },
            }
            for disk, target in zip(self.disks, self.targets, strict=True)
        ]
        monitor.execute("transaction", {"actions": actions})
        self.is_moved = True
        return tuple(
            overlays.base_of(disk.layers[0].format, [layer.path for layer in disk.layers]) for disk in self.disks
        )

    def remove(self, monitor: Monitor) -> None:
        """Those that the VM does not use: something has failed before. If QEMU does not say which, they are left."""
        with contextlib.suppress(VmError):
            used = used_by(monitor.execute("query-named-block-nodes", {"flat": True}))
            self.is_moved = any(str(target) in used for target in self.targets)
            for target in self.targets:
                if str(target) not in used:
                    target.unlink(missing_ok=True)


def used_by(nodes: list[dict[str, Any]]) -> set[str]:
    """The files that QEMU has open as disks."""
    return {str(node.get("file")) for node in nodes}


def _file_of(name: str) -> str:
    """QEMU says an overlay as JSON when it reaches what is below it by another path than the overlay names, as after
    a fork of a VM that was started with a relative one. (qemu(1), json:)"""
    if not name.startswith("json:"):
        return name
    try:
        node = json.loads(name.removeprefix("json:"))
        return str(node.get("file", node)["filename"])
    except (ValueError, KeyError, AttributeError, TypeError):
        return name


def _disk(vm: Running, inserted: dict[str, Any]) -> Disk:
    layers: list[Layer] = []
    image: dict[str, Any] | None = inserted["image"]
    while image is not None:
        path = Path(vm.folder, _file_of(str(image["filename"])))
        if not path.exists():
            raise InputError(
                f"the disk {image['filename']} of {vm.name} is no file that others can open (with snapshot=on it is a "
                "temporary one), so others can have no overlay over it"
            )
        layers.append(Layer(path, str(image["format"])))
        image = image.get("backing-image")
    if len(layers) >= MAXIMUM_LAYERS:
        raise InputError(
            f"the disk {layers[0].path} of {vm.name} is made of {len(layers)} files by now, and QEMU looks into each; "
            "make one of them while the VM is stopped: qemu-img convert -O qcow2"
        )
    return Disk(layers, str(inserted["node-name"]), int(inserted["image"]["virtual-size"]))
