"""`blockstore restore`: start a VM from a snapshot."""

from __future__ import annotations

from pathlib import Path

import click

from blockstore.cli.paths import DIRECTORY
from blockstore.cli.prefetch_option import prefetch_option
from blockstore.cli.resident_size import RESIDENT, target_option
from blockstore.cli.vm_name import check_vm_name
from blockstore.daemon import mounts
from blockstore.errors import InputError
from blockstore.vm import bring_up, snapshot_file
from blockstore.vm import restore as restoring
from blockstore.vm.prefetch import Prefetch


# No -h: it would be found in -nographic, where the -- before QEMU is forgotten.
@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]})
@click.argument("snapshot")
@click.option("--as", "name", required=True, help="Name of the new VM (vm2, blue/vm2): its memory file in the mount.")
@click.option("--resident", type=RESIDENT, default="auto", show_default=True, help="As for `blockstore run`.")
@target_option
@prefetch_option
@click.option("--mount", "mountpoint", type=DIRECTORY, help="The mount. Default: the only one there is.")
@click.option("--keep", is_flag=True, help="Leave the memory file when the VM has ended.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def restore(
    snapshot: str,
    name: str,
    resident: int | str,
    target: float,
    prefetch: bool,
    mountpoint: Path | None,
    keep: bool,
    command: tuple[str, ...],
) -> None:
    """Start a VM that goes on from where SNAPSHOT was taken, on a clone of its memory.

    COMMAND is QEMU's command line for it, which must make the same devices; without one it is that of the VM that the
    snapshot was taken of. Terminal, signals and exit code are QEMU's, and the memory file is deleted when it has ended,
    as with `blockstore run`.

    \b
    Example:
      blockstore restore booted --as vm2
      blockstore restore booted --as vm2 -- qemu-system-x86_64 -nographic -drive file=overlay2.qcow2,if=virtio
    """
    check_vm_name(name)
    if command and command[0].startswith("-"):
        raise InputError(f"{command[0]!r} is no program; the command line behind -- begins with QEMU's name")
    mount = mounts.find(mountpoint)
    found = snapshot_file.find(mount, snapshot)
    restoring.check_domain(found.name, name)
    origin, facts = restoring.origin_of(found), found.facts
    state = bring_up.opened(found.device_state())
    prefetching = Prefetch(mount.state, found.path.stat().st_ino) if prefetch else None
    wish = restoring.Wish(
        name, restoring.command_of(facts.program, facts.arguments, command), resident, target / 100, keep
    )
    restoring.start(
        mount,
        origin,
        wish,
        is_fork=False,
        warn=lambda sentence: click.echo(f"blockstore: warning: {sentence}", err=True),
        started=bring_up.beside(mount, name, state, prefetching),
    )
