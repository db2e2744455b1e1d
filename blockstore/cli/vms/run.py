"""`blockstore run`: start a VM whose memory is a file of a mount."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import NoReturn

import click

from blockstore.cli.output import say, warn
from blockstore.cli.types.paths import DIRECTORY
from blockstore.cli.types.resident_size import residency_options
from blockstore.cli.types.sizes import SIZE
from blockstore.cli.types.vm_name import check_vm_name
from blockstore.daemon.control.attachments import Residency
from blockstore.daemon.host import mounts
from blockstore.errors import InputError
from blockstore.vm.fork import launching
from blockstore.vm.qemu import qemu_arguments, runner


# No -h: it would be found in -nographic, where the -- before QEMU is forgotten.
@click.command(context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]})
@click.argument("name")
@click.option("--memory", type=SIZE, required=True, help="Memory of the guest (1G).")
@residency_options
@click.option("--mount", "mountpoint", type=DIRECTORY, help="The mount. Default: the only one there is.")
@click.option("--keep", is_flag=True, help="Leave the memory file when the VM has ended.")
@click.option("--no-balloon", is_flag=True, help="Add no balloon: memory that the guest frees does not come back.")
@click.option("--detach", is_flag=True, help="Start it in the background, without a terminal; print its name.")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(
    name: str,
    memory: int,
    residency: Residency,
    mountpoint: Path | None,
    keep: bool,
    no_balloon: bool,
    detach: bool,
    command: tuple[str, ...],
) -> None:
    """Start a VM: make the file NAME in the mount, and run COMMAND, a QEMU command line, with it as the guest's memory.

    Terminal, signals and exit code are QEMU's. With --detach it runs in the background, and its console is there for
    `blockstore console`. What the guest does not use leaves the page cache, and what it frees leaves the store. Its
    file is deleted when QEMU has ended.

    \b
    Example:
      blockstore run blue/vm1 --memory 1G -- qemu-system-x86_64 -nographic -drive file=disk.qcow2,if=virtio
      blockstore run vm2 --memory 1G --detach -- qemu-system-x86_64 -nographic -drive file=disk2.qcow2,if=virtio
    """
    check_vm_name(name)
    place = PurePosixPath(name)
    if not memory or memory % (1 << 20):
        hint = f"; did you mean {memory}M?" if 0 < memory < 1 << 20 else ""
        raise InputError(f"--memory must be a whole number of MiB, and not 0; it is {memory} bytes{hint}")
    if command[0].startswith("-"):
        raise InputError(f"'{command[0]}' is no program: is the NAME missing before '{name}', or the -- behind it?")
    if isinstance(residency.resident, int) and residency.resident > memory:
        raise InputError(f"--resident is more than the {memory >> 20} MiB of --memory; name a smaller size, or auto")
    if residency.least_bytes > memory:
        raise InputError(f"--resident-min is more than the {memory >> 20} MiB of --memory; name a smaller size")
    mount = mounts.find(mountpoint)
    arguments = qemu_arguments.with_memory(command[1:], str(mount.path / place), memory, balloon=not no_balloon)

    def become(is_apart: bool) -> NoReturn:
        full = [command[0], *arguments]
        runner.run(mount, str(place), memory, residency, full, keep=keep, warn=warn, is_apart=is_apart)

    if not detach:
        become(False)
    for sentence in launching.start_one(mount, str(place), lambda: become(True)):
        warn(sentence)
    say(str(place))
