"""`blockstore evict`: move memory of VMs out of the page cache into the store."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import click

from blockstore.cli.output import print_json, say
from blockstore.cli.types.paths import DIRECTORY
from blockstore.cli.types.sizes import counted, format_size
from blockstore.cli.views.natural_order import natural
from blockstore.daemon.control import client
from blockstore.daemon.host import mounts
from blockstore.errors import InputError, MountError
from blockstore.store.accounting.report import files
from blockstore.vm.memory import write_errors
from blockstore.vm.memory.evict import Evicted
from blockstore.vm.memory.evict import evict as evict_file
from blockstore.vm.open_files import NOT_OURS, open_volume

NAMED: Final = 5
"""Of the files that were left out, so many are named."""

NAMED_LETTERS: Final = 80
"""A longer name loses its middle there: it may be longer than all else that is said."""


@click.command()
@click.argument("mountpoint", type=DIRECTORY)
@click.argument("names", nargs=-1)
@click.option("--json", "as_json", is_flag=True, help="Print JSON: resident bytes before and after, by name.")
def evict(mountpoint: Path, names: tuple[str, ...], as_json: bool) -> None:
    """Write back the memory of the VMs at MOUNTPOINT (all, or those with these NAMES) and drop it from the page cache.

    Running VMs go on, and take back what they need. Until it is evicted, memory is kept uncompressed. A file that
    cannot be evicted does not keep the others from it; at the end a sentence names it, and the exit code is 1.

    \b
    Example:
      blockstore evict /run/vm-memory
      blockstore evict /run/vm-memory vm1
    """
    mount = mounts.find(mountpoint)
    write_errors.await_look(mount.state)
    there = files(client.ask(mount.state, {"do": "status"})["report"])
    for name in names:
        if name not in there:
            raise InputError(
                f"{mount.path} has no file '{name}'; `blockstore status {mount.path}` lists them, as vm1 or blue/vm1"
            )
    mappings = list(mounts.mappings(mount))
    result, left_out = {}, {}
    for name in names or sorted(there, key=natural):
        try:
            before, after, rewritten_bytes = _evict(mount, name, mappings)
        except FileNotFoundError as error:
            if names:  # else it has no name any more, and nobody asked for it
                left_out[name] = str(error.strerror)
            continue
        except OSError as error:
            left_out[name] = error.strerror or str(error)
            continue
        write_errors.tell(mount.state, name, rewritten_bytes)
        result[name] = {"before": before, "after": after}
        if not as_json:
            say(f"{name}: {format_size(before)} resident, now {format_size(after)}")
    if as_json:
        print_json(result)
    if left_out:
        raise MountError(_left_out(left_out))


def _evict(mount: mounts.Mount, name: str, mappings: list[mounts.Mapping]) -> Evicted:
    """Raises OSError."""
    descriptor = open_volume(mount, name)
    try:
        return evict_file(descriptor, mappings)
    finally:
        os.close(descriptor)


def _left_out(reasons: Mapping[str, str]) -> str:
    """Which files were not evicted, and why not; at most NAMED of them."""
    words = [f"{_short(name)} ({reason})" for name, reason in list(reasons.items())[:NAMED]]
    if len(reasons) > NAMED:
        words.append(f"{len(reasons) - NAMED} more")
    hint = ""
    if os.strerror(errno.EACCES) in reasons.values():
        hint = f"; {NOT_OURS}"
    return f"{counted(len(reasons), 'file')} could not be evicted: {', '.join(words)}{hint}"


def _short(name: str) -> str:
    half = NAMED_LETTERS // 2
    return name if len(name) <= NAMED_LETTERS else f"{name[:half]}...{name[-half:]}"
