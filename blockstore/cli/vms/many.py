"""New VMs in the background, from a VM that runs or from a snapshot: what `fork` and `restore --detach` share."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from blockstore.cli.output import say
from blockstore.cli.types.vm_name import check_vm_name
from blockstore.cli.views.progress import progress
from blockstore.daemon.control.attachments import Residency
from blockstore.daemon.host.mounts import Mount
from blockstore.errors import BusyError, InputError
from blockstore.vm.fork import bring_up, fork, restore
from blockstore.vm.fork.launching import Clone
from blockstore.vm.qemu import mac, recorded_arguments
from blockstore.vm.snapshot import overlays
from blockstore.vm.snapshot.snapshot_file import Snapshot

if TYPE_CHECKING:
    from blockstore.vm.fork.prefetch import Prefetch


def names_of(mount: Mount, origin: str, pattern: str, count: int, option: str) -> list[str]:
    """Returns the names of the new VMs, from the pattern that `option` gave. Raises InputError, BusyError."""
    filled = recorded_arguments.filled_in
    names = [filled([pattern], {"vm": origin, "n": str(number)})[0] for number in range(1, count + 1)]
    if len(set(names)) != count:
        raise InputError(f"{option} {pattern} gives {count} VMs the same name; put {{n}} into it")
    for name in names:
        check_vm_name(name)
        restore.check_domain(origin, name)
        if os.path.lexists(mount.path / name):
            raise BusyError(f"{mount.path / name} is there already; choose other names with {option}, or delete it")
    return names


def wishes_for(
    names: Sequence[str],
    origin: str,
    command: Sequence[str],
    residency: Residency,
    paths_of: Callable[[str], Sequence[Path]],
    *,
    keep: bool = False,
) -> list[restore.Wish]:
    """Returns what each new VM is to be, with the words in braces of `command` filled in. `paths_of` says where the
    disks of one are to be made."""
    wishes, wants_mac = [], any("{mac}" in word for word in command)
    for number, name in enumerate(names, 1):
        paths = paths_of(name)
        values = {"vm": origin, "n": str(number), "name": name, "mac": mac.of(name) if wants_mac else ""}
        line = recorded_arguments.filled_in(command, values | overlays.placeholders(paths))
        wishes.append(restore.Wish(name, line, residency, keep, paths))
    return wishes


def overlays_of(snapshot: Snapshot, name: str, folder: Path | None) -> list[Path]:
    """Returns where the disks of a new VM from the snapshot are to be. Raises InputError."""
    bases = snapshot.facts.disks
    if not bases:
        if folder is not None:
            raise InputError(f"the snapshot {snapshot.name} was taken without its VM's disks; leave out --disks")
        return []
    overlays.check(bases, f"the snapshot {snapshot.name}")
    place = overlays.folder_of(folder or Path(bases[0].images[0].path).parent)
    return overlays.paths_for(place, name, len(bases))


def start_all(
    mount: Mount,
    origin: restore.Origin,
    ready: Callable[[], fork.Ready],
    wishes: Sequence[restore.Wish],
    prefetching: Callable[[], Prefetch | None],
    hook: Path | None = None,
) -> None:
    """Starts them, and prints their names when all run. Raises a sentence, and then none of them is left."""
    with progress("starting") as advance:

        def started(clone: Clone) -> None:
            if hook is not None:
                fork.run_hook(mount, clone, hook, mac.of(clone.name))
            advance(clone.number, len(wishes))

        clones = fork.fork(mount, origin, ready, wishes, started, prefetching)
    for clone in clones:
        say(clone.name)


def start_from_snapshot(
    mount: Mount,
    snapshot: Snapshot,
    names: Sequence[str],
    command: Sequence[str],
    residency: Residency,
    disks_folder: Path | None,
    *,
    prefetch: bool,
    keep: bool = False,
    hook: Path | None = None,
) -> None:
    """Starts VMs that go on from where a snapshot was taken. Raises a sentence, and then none of them is left."""
    facts = snapshot.facts
    device_state = bring_up.opened(snapshot.device_state())
    full = restore.command_of(facts.program, facts.arguments, command, len(facts.disks))
    wishes = wishes_for(
        names, snapshot.name, full, residency, lambda name: overlays_of(snapshot, name, disks_folder), keep=keep
    )

    def prefetching() -> Prefetch | None:
        from blockstore.vm.fork.prefetch import Prefetch  # while the first QEMUs start

        return Prefetch(mount.state, snapshot.path.stat().st_ino) if prefetch else None

    ready = fork.Ready(device_state, facts.disks)
    start_all(mount, restore.origin_of(snapshot), lambda: ready, wishes, prefetching, hook)
