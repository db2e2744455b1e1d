"""`--disks DIR` of the commands that keep or fork a VM that runs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from blockstore.cli.output import complain
from blockstore.vm.qemu.running import Running
from blockstore.vm.snapshot import overlays

if TYPE_CHECKING:  # asyncio, which a fork without disks loads while QEMU starts
    from blockstore.vm.snapshot.disks import Moving

disks_option = click.option(
    "--disks",
    "disks_folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Its disks, too: VM goes on in overlays (qcow2) in DIR.",
)


def moving_disks(vm: Running, folder: Path | None) -> Moving | None:
    """The VM's disks, if they are asked for. Raises InputError, VmError."""
    if folder is None:
        return None
    place = overlays.folder_of(folder)

    from blockstore.vm.snapshot.disks import Moving

    return Moving(vm, place)


@contextlib.contextmanager
def told_where_disks_are(moving: Moving | None) -> Iterator[None]:
    """Say where the VM's disks are now, also when what is done inside fails later."""
    try:
        yield
    finally:
        if moving is not None and moving.is_moved:
            for disk, target in zip(moving.disks, moving.targets, strict=True):
                complain(f"note: {moving.vm.name} writes to {target} from now on, not to {disk.layers[0].path}")
