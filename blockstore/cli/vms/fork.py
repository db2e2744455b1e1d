"""`blockstore fork`: one booted VM becomes many."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import click

from blockstore.cli.types.disks_option import disks_option, moving_disks, told_where_disks_are
from blockstore.cli.types.number import WholeNumber
from blockstore.cli.types.paths import DIRECTORY
from blockstore.cli.types.prefetch_option import prefetch_option
from blockstore.cli.types.resident_size import residency_options
from blockstore.cli.vms import many
from blockstore.daemon.control.attachments import Residency
from blockstore.daemon.host import mounts
from blockstore.errors import InputError
from blockstore.vm.fork import fork as forking
from blockstore.vm.fork import restore
from blockstore.vm.qemu import recorded_arguments, running
from blockstore.vm.qemu.disk_arguments import for_others
from blockstore.vm.snapshot import overlays, snapshot_file

if TYPE_CHECKING:
    from blockstore.vm.fork.prefetch import Prefetch


# No -h: it would be found in -nographic, where the -- before QEMU is forgotten.
@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]})
@click.argument("vm")
@click.option("--count", type=WholeNumber(1, forking.MAXIMUM_COUNT), default=1, show_default=True)
@click.option("--name", "pattern", default="{vm}-{n}", show_default=True, help="Names of the new VMs.")
@click.option("--hook", type=click.Path(path_type=Path), help="Program to call for each new VM when it runs.")
@click.option(
    "--qmp", type=click.Path(path_type=Path), help="QMP socket of a VM that `blockstore run` has not started."
)
@residency_options
@prefetch_option
@disks_option
@click.option("--mount", "mountpoint", type=DIRECTORY, help="The mount. Default: the only one there is.")
@click.argument("command", nargs=-1, type=click.UNPROCESSED)
def fork(
    vm: str,
    count: int,
    pattern: str,
    hook: Path | None,
    qmp: Path | None,
    residency: Residency,
    prefetch: bool,
    disks_folder: Path | None,
    mountpoint: Path | None,
    command: tuple[str, ...],
) -> None:
    """Start COUNT new VMs that go on from where VM is now, each on its own clone of its memory. VM goes on as well.
    A snapshot in its place is where they go on from.

    They run in the background, without a terminal; their names are printed when they run. COMMAND is their QEMU's
    command line, which must make the same devices; without one it is VM's own. In COMMAND and --name, {vm} is VM's
    name, {n} the number of the new VM, {name} its name, {mac} a network address of its own, and with --disks {disk1},
    {disk2} its disks. They stay when it has ended;
    `blockstore disks` lists and deletes them.

    The hook gets the new VM's name as its argument, the VM's serial console as its standard input and output, and
    BLOCKSTORE_NAME, _NUMBER, _MAC, _QMP and _CONSOLE in its environment. When it fails, all new VMs end.

    \b
    Example:
      blockstore fork vm1 --count 20
      blockstore fork vm1 --count 20 --disks /var/lib/overlays
      blockstore fork booted --count 5 --name 'test-{n}'
      blockstore fork vm1 --count 3 --name 'ci-{n}' --hook ./rename-guest -- \\
          qemu-system-x86_64 -nographic -nic tap,ifname=tap{n},mac={mac}
    """
    if command and command[0].startswith("-"):
        raise InputError(f"'{command[0]}' is no program; the command line behind -- begins with QEMU's name")
    mount = mounts.find(mountpoint)
    names = many.names_of(mount, vm, pattern, count, "--name")
    program = _hook(hook)
    # A VM may have the name of a snapshot; then it is the VM.
    if not os.path.lexists(mount.path / vm) and snapshot_file.is_there(snapshot_file.place_named(mount, vm)):
        if qmp is not None:
            raise InputError(f"{vm} is a snapshot, and has no QMP socket; leave out --qmp")
        snapshot = snapshot_file.find(mount, vm)
        many.start_from_snapshot(
            mount, snapshot, names, command, residency, disks_folder, prefetch=prefetch, hook=program
        )
        return
    found = running.find(mount, vm, qmp)
    moving = moving_disks(found, disks_folder)
    recorded = for_others(found, moving.disks if moving else [])
    full = restore.command_of(found.program, recorded, command, len(moving.disks) if moving else 0)

    def paths_of(name: str) -> list[Path]:
        return overlays.paths_for(moving.targets[0].parent, name, len(moving.disks)) if moving else []

    wishes = many.wishes_for(names, vm, full, residency, paths_of)
    with snapshot_file.making(mount, snapshot_file.domain_of(vm)) as (path, descriptor):
        backend = recorded_arguments.backend_of(found.command)
        origin = restore.Origin(path, found.memory_bytes, recorded, found.folder, backend)

        # Both load what they need while the new VMs' QEMUs start.
        def ready() -> forking.Ready:
            from blockstore.vm.snapshot import take

            device_state, facts = take.for_forks(mount, found, descriptor, path, moving)
            if facts.backend != backend:
                raise InputError(
                    f"{vm} calls its memory {facts.backend}, which its command line does not say; take a snapshot and "
                    "restore that"
                )
            return forking.Ready(device_state, facts.disks)

        def prefetching() -> Prefetch | None:
            from blockstore.vm.fork.prefetch import Prefetch

            return Prefetch(mount.state, found.volume) if prefetch else None

        with told_where_disks_are(moving):
            many.start_all(mount, origin, ready, wishes, prefetching, program)


def _hook(hook: Path | None) -> Path | None:
    if hook is None:
        return None
    found = shutil.which(hook if hook.name != str(hook) else f"./{hook}")
    if found is None:
        raise InputError(f"the hook {hook} is no program that can be started; is it there, and executable?")
    return Path(found).absolute()  # pathlib takes away a leading ./, and it would be looked for in PATH
