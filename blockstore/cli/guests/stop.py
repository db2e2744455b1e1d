"""`blockstore stop`: VMs shut down, or end at once."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import click

from blockstore.cli.types.number import Seconds
from blockstore.cli.types.paths import DIRECTORY
from blockstore.daemon.host import mounts
from blockstore.errors import VmError
from blockstore.vm.guest import ending
from blockstore.vm.qemu import running

SHUT_DOWN_S: Final = 90.0
"""Longer than systemd waits for a service that does not stop."""


@click.command()
@click.argument("names", nargs=-1, required=True)
@click.option("--kill", "at_once", is_flag=True, help="End them at once, as if their power was cut.")
@click.option(
    "--timeout",
    type=Seconds(min=0.1),
    default=SHUT_DOWN_S,
    show_default=True,
    metavar="SECONDS",
    help="How long the guests may take to shut down.",
)
@click.option("--mount", "mountpoint", type=DIRECTORY, help="The mount. Default: the only one there is.")
def stop(names: tuple[str, ...], at_once: bool, timeout: float, mountpoint: Path | None) -> None:
    """Shut the VMs NAMES down, by their power button, and return when they have ended.

    A guest that does not heed the button runs on, and the exit code is 1.

    \b
    Example:
      blockstore stop vm2
      blockstore stop vm2 vm3 --kill
    """
    mount = mounts.find(mountpoint)
    vms = [running.find(mount, name, None) for name in names]
    failures: list[str] = []
    late: list[str] = []
    with ending.processes(mount, vms) as found:
        for vm, process in zip(vms, found, strict=True):
            try:
                if at_once:
                    ending.kill(process)
                else:
                    ending.ask_to_shut_down(vm)
            except VmError as error:
                failures.append(str(error))
        deadline = time.monotonic() + timeout
        for vm, process in zip(vms, found, strict=True):
            if not ending.wait(mount, vm, process, max(deadline - time.monotonic(), 0.0)):
                late.append(vm.name)
    if late and at_once:
        failures.append(f"{', '.join(late)} cannot be killed; QEMU waits in the kernel, for room in the pool perhaps")
    elif late:
        failures.append(
            f"{', '.join(late)} did not shut down within {timeout:g} s; does the guest heed its power button (ACPI)? "
            f"to end it at once: blockstore stop --kill {late[0]}"
        )
    if failures:
        raise VmError("; ".join(failures))
