"""`blockstore pull`: make a snapshot of one that another host has pushed."""

from __future__ import annotations

from pathlib import Path

import click

from blockstore.cli.output import say
from blockstore.cli.types.paths import DIRECTORY
from blockstore.cli.views.progress import progress
from blockstore.cli.vms.snapshots import new_place
from blockstore.daemon.host import mounts
from blockstore.vm.snapshot import snapshot_file


@click.command()
@click.argument("name")
@click.option("--from", "url", required=True, metavar="URL", help="Where it was pushed to.")
@click.option("--as", "own_name", help="Its name here (booted, blue/booted). Default: NAME.")
@click.option("--wait", is_flag=True, help="Return when all of its blocks have come.")
@click.option("--mount", "mountpoint", type=DIRECTORY, help="The mount. Default: the only one there is.")
@click.option("-v", "--verbose", is_flag=True, help="Say how many blocks the store had already.")
def pull(name: str, url: str, own_name: str | None, wait: bool, mountpoint: Path | None, verbose: bool) -> None:
    """Make a snapshot here of the one that was pushed to URL as NAME, without moving its memory first.

    NAME may have the domain that it is to be in here, as `blockstore snapshots` prints it where it was pushed
    (blue/booted); in URL it is called the same without.

    It can be restored at once: blocks come when a VM uses them, and all others in the background. Those that this
    store has already, in the same sharing domain, are not fetched. `blockstore status` shows how many are to come.

    A password must stand in a file, ?password-file=PATH, or in BLOCKSTORE_SPILL_PASSWORD when the mount was made and
    now: the mount fetches the blocks.

    \b
    Example:
      blockstore pull booted --from valkey://10.0.0.5:6379
      blockstore restore booted --as vm1
    """
    from blockstore.store.remote import pushed
    from blockstore.vm.snapshot import push as pushing

    own_name, name = own_name or name, name.split("/", 1)[-1]
    snapshot_file.check_name(name)
    mount = mounts.find(mountpoint)
    domain, place = new_place(mount, own_name)
    with pushing.place(url, name) as tier:
        head = pushed.read_head(tier, name)
        with snapshot_file.making(mount, domain) as (path, descriptor), progress("pulling") as report:
            blocks, here = pushing.pull(mount, descriptor, tier, head, url, report)
            snapshot_file.publish(mount, path, place)
    if verbose:
        say(f"{here:,} of {blocks:,} blocks that differ were here already", err=True)
    if wait:
        with progress("fetching") as report:
            pushing.wait(mount, report)
