"""`blockstore restore`: start a VM from a snapshot."""

from __future__ import annotations

from pathlib import Path

import click

from blockstore.cli.output import warn
from blockstore.cli.types.number import WholeNumber
from blockstore.cli.types.paths import DIRECTORY
from blockstore.cli.types.prefetch_option import prefetch_option
from blockstore.cli.types.resident_size import residency_options
from blockstore.cli.types.vm_name import check_vm_name
from blockstore.cli.vms import many
from blockstore.daemon.control.attachments import Residency
from blockstore.daemon.host import mounts
from blockstore.errors import InputError
from blockstore.vm.fork import bring_up, fork
from blockstore.vm.fork import restore as restoring
from blockstore.vm.fork.prefetch import Prefetch
from blockstore.vm.qemu import mac
from blockstore.vm.qemu.recorded_arguments import filled_in
from blockstore.vm.snapshot import overlays, snapshot_file


# No -h: it would be found in -nographic, where the -- before QEMU is forgotten.
@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]})
@click.argument("snapshot")
@click.option("--as", "name", required=True, help="Name of the new VM (vm2, blue/vm2): its memory file in the mount.")
@click.option("--detach", is_flag=True, help="Start it in the background, without a terminal; print its name.")
@click.option(
    "--count",
    type=WholeNumber(1, fork.MAXIMUM_COUNT),
    default=1,
    show_default=True,
    help="With --detach: so many of them, with names that --as makes of {n}.",
)
@residency_options
@prefetch_option
@click.option(
    "--disks",
    "disks_folder",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Where overlays for its disks are made. Default: beside the snapshot's.",
)
@click.option("--mount", "mountpoint", type=DIRECTORY, help="The mount. Default: the only one there is.")
@click.option("--keep", is_flag=True, help="Leave the memory file when the VM has ended.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def restore(
    snapshot: str,
    name: str,
    detach: bool,
    count: int,
    residency: Residency,
    prefetch: bool,
    disks_folder: Path | None,
    mountpoint: Path | None,
    keep: bool,
    command: tuple[str, ...],
) -> None:
    """Start a VM that goes on from where SNAPSHOT was taken, on a clone of its memory.

    COMMAND is QEMU's command line for it, which must make the same devices; without one it is that of the VM that the
    snapshot was taken of. Terminal, signals and exit code are QEMU's, and the memory file is deleted when it has ended,
    as with `blockstore run`. In COMMAND, {name} is the new VM's name, {mac} a network address of its own, and {disk1},
    {disk2} are its disks, if the snapshot has any. They stay when it has ended;
    `blockstore disks` lists and deletes them.

    \b
    Example:
      blockstore restore booted --as vm2
      blockstore restore booted --as 'web-{n}' --count 3 --detach
      blockstore restore booted --as vm2 -- qemu-system-x86_64 -nographic -drive file={disk1},format=qcow2,if=virtio
    """
    if not detach:
        check_vm_name(name)
        if count > 1:
            raise InputError("--count starts VMs in the background; add --detach")
    if command and command[0].startswith("-"):
        raise InputError(f"'{command[0]}' is no program; the command line behind -- begins with QEMU's name")
    mount = mounts.find(mountpoint)
    found = snapshot_file.find(mount, snapshot)
    if detach:
        names = many.names_of(mount, found.name, name, count, "--as")
        many.start_from_snapshot(mount, found, names, command, residency, disks_folder, prefetch=prefetch, keep=keep)
        return
    restoring.check_domain(found.name, name)
    origin, facts = restoring.origin_of(found), found.facts
    state = bring_up.opened(found.device_state())
    prefetching = Prefetch(mount.state, found.path.stat().st_ino) if prefetch else None
    paths = many.overlays_of(found, name, disks_folder)
    full = restoring.command_of(facts.program, facts.arguments, command, len(paths))
    values = {"name": name, "mac": mac.of(name)} | overlays.placeholders(paths)
    wish = restoring.Wish(name, filled_in(full, values), residency, keep, paths)
    restoring.start(
        mount,
        origin,
        wish,
        is_fork=False,
        warn=warn,
        started=bring_up.beside(
            mount, name, state, prefetching, lambda ledger: overlays.make_all(facts.disks, paths, ledger)
        ),
    )
