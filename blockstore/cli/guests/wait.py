"""`blockstore wait`: until VMs have ended."""

from __future__ import annotations

from pathlib import Path

import click

from blockstore.cli.types.number import Seconds
from blockstore.cli.types.paths import DIRECTORY
from blockstore.daemon.host import mounts
from blockstore.vm.guest import ending
from blockstore.vm.qemu import running


@click.command()
@click.argument("names", nargs=-1, required=True)
@click.option("--timeout", type=Seconds(min=0.1), metavar="SECONDS", help="Give up after so long. Default: never.")
@click.option("--mount", "mountpoint", type=DIRECTORY, help="The mount. Default: the only one there is.")
def wait(names: tuple[str, ...], timeout: float | None, mountpoint: Path | None) -> None:
    """Wait until the VMs NAMES have ended, and their memory is gone.

    \b
    Example:
      blockstore wait vm2 && echo vm2 has shut down
    """
    mount = mounts.find(mountpoint)
    vms = [running.find(mount, name, None) for name in names]
    for vm in vms:
        ending.wait(mount, vm, timeout)
