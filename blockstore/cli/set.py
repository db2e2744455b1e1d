"""`blockstore set`: change what a running mount was told."""

from __future__ import annotations

from pathlib import Path

import click

from blockstore.cli.paths import DIRECTORY
from blockstore.cli.sizes import SIZE, format_size
from blockstore.daemon import control, mounts


@click.command(name="set")
@click.argument("mountpoint", type=DIRECTORY)
@click.option("--pool-limit", type=SIZE, required=True, help="The most memory that stored blocks may take (2GiB).")
def set_options(mountpoint: Path, pool_limit: int) -> None:
    """Change the limits of the mount at MOUNTPOINT while it serves, and until it ends.

    Writes that wait for room go on as soon as there is some. A limit below what is stored is refused.

    \b
    Example:
      blockstore set /run/vm-memory --pool-limit 12G
    """
    mount = mounts.find(mountpoint)
    room = control.ask(mount.state, {"do": "set", "pool_limit": pool_limit})["state_room"]
    if pool_limit > room:
        click.echo(
            f"blockstore: warning: the file system under {mount.state} has room for {format_size(room)} of it: "
            "writes will wait when that is full",
            err=True,
        )
