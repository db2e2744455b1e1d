"""`blockstore push`: put a snapshot where other hosts can get it."""

from __future__ import annotations

from pathlib import Path

import click

from blockstore.cli.output import print_json, say
from blockstore.cli.types.paths import DIRECTORY
from blockstore.cli.types.sizes import counted, format_size
from blockstore.cli.views.progress import progress
from blockstore.daemon.host import mounts
from blockstore.errors import InputError
from blockstore.vm.snapshot import snapshot_file


@click.command()
@click.argument("snapshot")
@click.option("--to", "url", required=True, metavar="URL", help="valkey://HOST:PORT[,HOST:PORT...].")
@click.option("--as", "name", help="Its name there. Default: that of SNAPSHOT, without the domain.")
@click.option("--delete", is_flag=True, help="Take the one of this name away from there; no mount is needed.")
@click.option("--mount", "mountpoint", type=DIRECTORY, help="The mount. Default: the only one there is.")
@click.option("--json", "as_json", is_flag=True, help="Print what was sent as JSON, bytes as integers.")
def push(snapshot: str, url: str, name: str | None, delete: bool, mountpoint: Path | None, as_json: bool) -> None:
    """Put SNAPSHOT, with all its memory, into a Valkey or Redis server, for `blockstore pull` on another host.

    It stays there until it is deleted with --delete; not before all blocks have come to whoever pulled it
    (`blockstore status` there). A password comes from BLOCKSTORE_SPILL_PASSWORD, or from a file: ?password-file=PATH.

    \b
    Example:
      blockstore push booted --to valkey://10.0.0.5:6379
      blockstore pull booted --from valkey://10.0.0.5:6379      (on the other host)
      blockstore push booted --to valkey://10.0.0.5:6379 --delete
    """
    from blockstore.vm.snapshot import push as pushing

    if delete and as_json:
        raise InputError("--json tells what was sent; leave it out with --delete")
    name = name or snapshot.rsplit("/", 1)[-1]
    snapshot_file.check_name(name)
    with pushing.place(url, name) as tier:
        if delete:
            if not tier.pieces():  # of a push that was killed, too
                raise InputError(f"{tier.describe()} has no snapshot '{name}'")
            tier.remove()
            return
        found = snapshot_file.find(mounts.find(mountpoint), snapshot)
        with progress("pushing") as report:
            sent = pushing.push(found, tier, name, report)
        place = tier.describe()
    if as_json:
        told = {"snapshot": found.name, "name": name, "to": place, "blocks": sent.blocks, "bytes": sent.size_bytes}
        print_json(told)
    else:
        size = format_size(sent.size_bytes)
        say(f"{found.name} is in {place} as {name}: {counted(sent.blocks, 'block')}, {size} sent")
