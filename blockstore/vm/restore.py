"""What a VM from a snapshot is started with."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

from blockstore.daemon.mounts import Mount
from blockstore.errors import InputError
from blockstore.vm import qemu_arguments, recorded_arguments, runner
from blockstore.vm.bring_up import INCOMING
from blockstore.vm.snapshot_file import Facts, domain_of


class Origin(NamedTuple):
    """What new VMs begin with: the memory in the file `path` of the mount, and how their QEMU is to be started."""

    path: Path
    memory_bytes: int
    facts: Facts


class Wish(NamedTuple):
    """What is to be different about a new VM: its name, and `command`, if it is not to be the one recorded."""

    name: str
    command: list[str]
    resident: int | str
    target_share: float
    keep: bool


def command_of(origin: Origin, command: Sequence[str]) -> list[str]:
    """Program and arguments of the new VM: `command`, or those recorded. Raises InputError."""
    if command:
        return list(command)
    recorded_arguments.check_for_another(origin.facts.arguments)
    return [origin.facts.program, *origin.facts.arguments]


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
    is_apart: bool,
    warn: Callable[[str], None],
    started: Callable[[int], None],
) -> NoReturn:
    """Become the new VM, which waits for its device state. Raises a sentence, and then nothing is left behind."""
    path, size_bytes = str(mount.path / wish.name), origin.memory_bytes
    balloon = any(qemu_arguments.BALLOON_ID in each for each in origin.facts.arguments)  # that `run` has added
    arguments = qemu_arguments.with_memory(
        wish.command[1:], path, size_bytes, balloon=balloon, backend=origin.facts.backend
    )
    if Path(origin.facts.folder).is_dir():
        os.chdir(origin.facts.folder)
    runner.run(
        mount,
        wish.name,
        size_bytes,
        wish.resident,
        wish.target_share,
        [wish.command[0], *arguments, *INCOMING],
        keep=wish.keep,
        warn=warn,
        memory=origin.path,
        is_apart=is_apart,
        started=started,
    )
