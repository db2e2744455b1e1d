"""`blockstore snapshot`: keep a VM that runs as it is now."""

from __future__ import annotations

from pathlib import Path

import click

from blockstore.cli.output import say
from blockstore.cli.types.disks_option import disks_option, moving_disks, told_where_disks_are
from blockstore.cli.types.paths import DIRECTORY
from blockstore.daemon.host import mounts
from blockstore.vm.qemu import running
from blockstore.vm.snapshot import snapshot_file, take


@click.command()
@click.argument("vm")
@click.argument("name")
@click.option(
    "--qmp", type=click.Path(path_type=Path), help="QMP socket of a VM that `blockstore run` has not started."
)
@click.option("--mount", "mountpoint", type=DIRECTORY, help="The mount. Default: the only one there is.")
@disks_option
@click.option("-v", "--verbose", is_flag=True, help="Say how long the VM stood still, and what for.")
def snapshot(
    vm: str, name: str, qmp: Path | None, mountpoint: Path | None, disks_folder: Path | None, verbose: bool
) -> None:
    """Keep the VM as it is now, memory and devices, as the snapshot NAME; the VM goes on.

    VM is the name of its memory file (vm1, blue/vm1). It stands still for tens of milliseconds. The snapshot shares all
    memory with it that neither changes later, and belongs to its sharing domain. Disks are part of it with --disks
    only, see docs/snapshots.md.

    \b
    Example:
      blockstore snapshot blue/vm1 booted
      blockstore restore blue/booted --as blue/vm2
    """
    domain = snapshot_file.domain_of(vm)
    name = snapshot_file.name_within(domain, name, vm)
    mount = mounts.find(mountpoint)
    place = snapshot_file.place_of(mount, domain, name)
    found = running.find(mount, vm, qmp)
    if snapshot_file.is_there(place):
        raise snapshot_file.taken(mount, place)
    moving = moving_disks(found, disks_folder)
    with snapshot_file.making(mount, domain) as (path, descriptor), told_where_disks_are(moving):
        taken = take.take(mount, found, descriptor, path, moving)
        snapshot_file.publish(mount, path, place)
    if verbose:
        parts = {"devices": taken.save_s, "dirty pages": taken.flush_s, "clone": taken.clone_s}
        words = ", ".join(f"{what} {seconds * 1000:.1f} ms" for what, seconds in parts.items())
        say(f"{vm} stood still for {taken.stopped_s * 1000:.1f} ms: {words}", err=True)
