"""`blockstore wait`: until VMs have ended."""

from __future__ import annotations

import time
from pathlib import Path

import click

from blockstore.cli.types.number import Seconds
from blockstore.cli.types.paths import DIRECTORY
from blockstore.daemon.host import mounts
from blockstore.errors import VmError
from blockstore.vm.guest import ending
from blockstore.vm.qemu import running


@click.command()
@click.argument("names", nargs=-1, required=True)
@click.option("--timeout", type=Seconds(min=0.1), metavar="SECONDS", help="Give up after so long. Default: never.")
@click.option("--mount", "mountpoint", type=DIRECTORY, help="The mount. Default: the only one there is.")
def wait(names: tuple[str, ...], timeout: float | None, mountpoint: Path | None) -> None:
    """Wait until the VMs NAMES have ended, and their memory is gone.

    One that has ended before is no VM any more: the exit code is 2.

    \b
    Example:
      blockstore wait vm2 vm3 --timeout 600
    """
    mount = mounts.find(mountpoint)
    vms = [running.find(mount, name, None) for name in names]
    deadline = None if timeout is None else time.monotonic() + timeout
    with ending.processes(mount, vms) as found:
        for vm, process in zip(vms, found, strict=True):
            left_s = None if deadline is None else max(deadline - time.monotonic(), 0.0)
            if not ending.wait(mount, vm, process, left_s):
                raise VmError(f"{vm.name} has not ended within {timeout:g} s")
