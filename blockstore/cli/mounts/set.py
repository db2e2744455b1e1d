"""`blockstore set`: change what a running mount was told."""

from __future__ import annotations

from pathlib import Path

import click

from blockstore.cli.output import warn
from blockstore.cli.types.attach_option import attach_option, patterns_of
from blockstore.cli.types.number import Percent
from blockstore.cli.types.paths import DIRECTORY
from blockstore.cli.types.sizes import SIZE, format_size
from blockstore.daemon.control import client
from blockstore.daemon.host import mounts
from blockstore.errors import InputError, MountError


@click.command(name="set")
@click.argument("mountpoint", type=DIRECTORY)
@click.option("--pool-limit", type=SIZE, help="The most memory that stored blocks may take (2GiB).")
@click.option(
    "--background-cpu",
    type=Percent(0, 100),
    metavar="PERCENT",
    help="Of one core, to encode with zstd what is cold. 0 is off.",
)
@click.option(
    "--background",
    type=click.Choice(("on", "off")),
    help="Switch that work off, or on again with the share of a core that `mount` was told.",
)
@attach_option
def set_options(
    mountpoint: Path,
    pool_limit: int | None,
    background_cpu: float | None,
    background: str | None,
    attach: tuple[str, ...],
) -> None:
    """Change what the mount at MOUNTPOINT was told, while it serves, and until it ends.

    Writes that wait for room go on as soon as there is some. A limit below what is stored is refused. VMs that are
    attached stay so (`blockstore attach --off`).

    \b
    Example:
      blockstore set /run/vm-memory --pool-limit 12G
      blockstore set /run/vm-memory --background off
    """
    if background is not None and background_cpu is not None:
        raise InputError("--background and --background-cpu say the same thing; leave one of them out")
    wanted: dict[str, int | float | str | tuple[str, ...]] = {}
    if pool_limit is not None:
        wanted["pool_limit"] = pool_limit
    if background_cpu is not None:
        wanted["background_cpu"] = background_cpu
    if background is not None:
        wanted["background_cpu"] = "default" if background == "on" else 0
    if attach:
        wanted["attach"] = patterns_of(attach)
    if not wanted:
        raise InputError("say what to change: --pool-limit, --background-cpu, --background or --attach")
    mount = mounts.find(mountpoint)
    answer = client.ask(mount.state, {"do": "set", **wanted})
    if attach and "attach" not in answer:
        raise MountError(
            f"the daemon of {mount.path} is of an earlier version, which attaches no VM by itself; replace it first: "
            f"blockstore reload {mount.path}"
        )
    room = answer["state_room"]
    if pool_limit is None:
        return
    if complaint := answer.get("pool_limit_complaint"):  # a daemon that was not reloaded yet may know less
        warn(complaint)
    if pool_limit > room:
        warn(
            f"the file system under {mount.state} has room for {format_size(room)} of it: "
            "writes will wait when that is full"
        )
