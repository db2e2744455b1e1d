"""`blockstore evict`: move memory of VMs out of the page cache into the store."""

from __future__ import annotations

import json
from pathlib import Path

import click

from blockstore.cli.paths import DIRECTORY
from blockstore.cli.sizes import format_size
from blockstore.daemon import control, mounts
from blockstore.errors import InputError, MountError
from blockstore.vm import write_errors
from blockstore.vm.evict import evict as evict_file


@click.command()
@click.argument("mountpoint", type=DIRECTORY)
@click.argument("names", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: resident bytes before and after, by name.")
def evict(mountpoint: Path, names: tuple[str, ...], as_json: bool) -> None:
    """Write back the memory of the VMs at MOUNTPOINT (all, or those with these NAMES) and drop it from the page cache.

    Running VMs go on, and take back what they need. Until it is evicted, memory is kept uncompressed.

    \b
    Example:
      blockstore evict /run/vm-memory
      blockstore evict /run/vm-memory vm1
    """
    mount = mounts.find(mountpoint)
    write_errors.await_look(mount.state)
    volumes = control.ask(mount.state, {"do": "status"})["report"]["volumes"]
    for name in names:
        if name not in volumes:
            raise InputError(
                f"{mount.path} has no file {name!r}; `blockstore status {mount.path}` lists them, as vm1 or blue/vm1"
            )
    mappings = list(mounts.mappings(mount))
    result = {}
    for name in names or [name for name in volumes if (mount.path / name).exists()]:
        try:
            before, after, rewritten_bytes = evict_file(mount.path / name, mappings)
        except OSError as error:
            raise MountError(f"{mount.path / name} cannot be evicted: {error.strerror or error}") from None
        write_errors.tell(mount.state, name, rewritten_bytes)
        result[name] = {"before": before, "after": after}
        if not as_json:
            click.echo(f"{name}: {format_size(before)} resident, now {format_size(after)}")
    if as_json:
        click.echo(json.dumps(result, indent=2))
