"""What a VM from a snapshot is started with."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from blockstore.daemon.control.attachments import Residency
from blockstore.daemon.host.mounts import Mount
from blockstore.errors import InputError
from blockstore.vm.fork.bring_up import INCOMING
from blockstore.vm.qemu import qemu_arguments, recorded_arguments, runner
from blockstore.vm.snapshot import overlays
from blockstore.vm.snapshot.snapshot_file import Snapshot, domain_of


class Origin(NamedTuple):
    """What new VMs begin with: the memory in the file `path` of the mount, and how their QEMU is to be started: as
    `arguments` of the origin's in `folder`, with the memory called `backend`."""

    path: Path
    memory_bytes: int
    arguments: list[str]
    folder: str
    backend: str


class Wish(NamedTuple):
    """What is to be different about a new VM: its name, `command`, if it is not to be the one recorded, and where the
    `overlays` of its disks are to be made."""

    name: str
    command: list[str]
    residency: Residency
    keep: bool
    overlays: Sequence[Path] = ()


def origin_of(snapshot: Snapshot) -> Origin:
    """That of VMs from a snapshot."""
    facts = snapshot.facts
    return Origin(snapshot.path, snapshot.memory_bytes, facts.arguments, facts.folder, facts.backend)


def command_of(program: str, arguments: list[str], command: Sequence[str], disks: int) -> list[str]:
    """Program and arguments of the new VM, which has so many `disks` in overlays: `command`, or those given, which were
    another's. Raises InputError."""
    if command:
        overlays.check_command(command, disks, "the command line behind --")
        return list(command)
    recorded_arguments.check_for_another(arguments)
    overlays.check_command(arguments, disks, "the command line of the VM")
    return [program, *arguments]


def check_domain(origin_name: str, name: str) -> None:
    """Memory is shared within a domain only. Raises InputError."""
    wanted = domain_of(origin_name)
    if domain_of(name) != wanted:
        place = f"{wanted}/{name.rsplit('/', 1)[-1]}" if wanted else name.rsplit("/", 1)[-1]
        raise InputError(
            f"{name} would be in another sharing domain than {origin_name}, and could not have its memory; "
            f"call it {place}"
        )


def start(
    mount: Mount,
    origin: Origin,
    wish: Wish,
    *,
    is_fork: bool,
    warn: Callable[[str], None],
    started: Callable[[int], None],
) -> NoReturn:
    """Become the new VM, which waits for its device state, and if it `is_fork` for its memory. Raises a sentence, and
    then nothing is left behind."""
    path, size_bytes = str(mount.path / wish.name), origin.memory_bytes
    balloon = any(qemu_arguments.BALLOON_ID in each for each in origin.arguments)  # that `run` has added
    arguments = qemu_arguments.with_memory(wish.command[1:], path, size_bytes, balloon=balloon, backend=origin.backend)
    if os.path.isdir(origin.folder):
        os.chdir(origin.folder)
    runner.run(
        mount,
        wish.name,
        size_bytes,
        wish.residency,
        [wish.command[0], *arguments, *INCOMING],
        keep=wish.keep,
        warn=warn,
        memory=None if is_fork else origin.path,
        is_apart=is_fork,
        started=started,
    )
