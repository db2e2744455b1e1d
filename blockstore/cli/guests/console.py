"""`blockstore console`: the console of a VM that runs in the background."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from blockstore.cli.output import warn
from blockstore.cli.types.paths import DIRECTORY
from blockstore.daemon.host import mounts
from blockstore.vm.guest import console as consoles
from blockstore.vm.qemu import running


@click.command()
@click.argument("name")
@click.option("--mount", "mountpoint", type=DIRECTORY, help="The mount. Default: the only one there is.")
def console(name: str, mountpoint: Path | None) -> None:
    """Talk to the serial console of the VM NAME, which `run --detach`, `restore --detach` or `fork` has started.

    Ctrl-] leaves it, and the VM runs on. One console is served at a time; the next one waits. Without a terminal all of
    standard input is sent, and what the guest says is printed until it has been silent for a second.

    \b
    Example:
      blockstore console vm2
      echo uptime | blockstore console vm2
    """
    mount = mounts.find(mountpoint)
    vm = running.find(mount, name, None)
    with consoles.open_console(mount, vm) as connection:
        if sys.stdin.isatty():
            warn(f"this is the console of {name}; Ctrl-] leaves it")
        sys.stdout.flush()
        consoles.talk(connection, sys.stdin.fileno(), sys.stdout.fileno(), name)
