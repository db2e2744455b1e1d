"""`blockstore snapshots`: the snapshots of a mount, and moving them elsewhere."""

from __future__ import annotations

import os
import shlex
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from blockstore.cli.empty_arguments import CheckedGroup
from blockstore.cli.output import print_json, say, warn
from blockstore.cli.types.paths import DIRECTORY
from blockstore.cli.types.sizes import format_size
from blockstore.cli.views.natural_order import natural
from blockstore.cli.views.progress import progress
from blockstore.daemon.control import client
from blockstore.daemon.host import mounts
from blockstore.errors import InputError, MountError, StateError
from blockstore.vm.snapshot import snapshot_file, working_set
from blockstore.vm.snapshot.snapshot_file import Snapshot

UNIQUE = ("stored_patched", "stored_compressed", "stored_dense", "stored_raw", "stored_paged")
"""Records that one place only has; what is shared with a VM, or within the snapshot, is not among them."""

mount_option = click.option("--mount", "mountpoint", type=DIRECTORY, help="The mount. Default: the only one there is.")


@click.group(cls=CheckedGroup, invoke_without_command=True)
@mount_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON, by name.")
@click.pass_context
def snapshots(context: click.Context, mountpoint: Path | None, as_json: bool) -> None:
    """List the snapshots of a mount; show, delete, export and import them.

    `unique` is what a snapshot alone keeps in the store: memory that VMs and other snapshots share with it costs
    nothing more.

    \b
    Example:
      blockstore snapshots
      blockstore snapshots export blue/booted /backup/
      blockstore snapshots import /backup/booted.bsnap --as blue/booted
      blockstore snapshots delete blue/booted
    """
    if context.invoked_subcommand is not None:
        if mountpoint is not None or as_json:
            raise InputError(f"options of `snapshots {context.invoked_subcommand}` stand behind that word")
        return
    mount = mounts.find(mountpoint)
    found = [_loaded(mount, path) for path in snapshot_file.all_paths(mount, warn)]
    described = _described(mount, [each for each in found if each is not None])
    if as_json:
        print_json(described)
    elif described:
        _print(described)


@snapshots.command()
@click.argument("name")
@mount_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def show(name: str, mountpoint: Path | None, as_json: bool) -> None:
    """Tell all that is known of the snapshot NAME."""
    mount = mounts.find(mountpoint)
    found = snapshot_file.find(mount, name)
    fields = _described(mount, [found])[found.name]
    if as_json:
        print_json(fields)
        return
    for key, value in fields.items():
        if key in ("memory", "touched", "unique", "device_state"):
            value = format_size(value)
        say(f"{key.replace('_', ' '):13} {shlex.join(value) if isinstance(value, list) else value}")


@snapshots.command()
@click.argument("names", nargs=-1, required=True)
@mount_option
def delete(names: tuple[str, ...], mountpoint: Path | None) -> None:
    """Delete the snapshots with these NAMES. VMs that were started from them go on."""
    mount = mounts.find(mountpoint)
    for path in [_path_of(mount, name) for name in names]:
        try:
            number = path.stat().st_ino
            path.unlink()
            working_set.remove(mount.state, number)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise MountError(f"{path} cannot be deleted: {error.strerror}") from None


@snapshots.command()
@click.argument("name")
@click.argument("place", metavar="TARGET", type=click.Path())
@mount_option
def export(name: str, place: str, mountpoint: Path | None) -> None:
    """Write the snapshot NAME to the file TARGET, or to NAME.bsnap in the directory TARGET.

    The file has all that `import` needs, on this host or another one with the same QEMU. Zeros are left out, the rest
    is compressed (zstd).
    """
    from blockstore.vm.snapshot import portable

    found = snapshot_file.find(mounts.find(mountpoint), name)
    target = Path(place)
    if os.path.isdir(target):
        target = target / f"{found.name.rsplit('/', 1)[-1]}{portable.SUFFIX}"
    elif place.endswith("/"):
        raise InputError(f"there is no folder {place}; make it first: mkdir -p {place}")
    with progress("exporting") as report:
        portable.export(found, target, report)


@snapshots.command("import")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--as", "name", help="Its name here (booted, blue/booted). Default: the one it had, at the top.")
@mount_option
def import_(source: Path, name: str | None, mountpoint: Path | None) -> None:
    """Make a snapshot of the exported file SOURCE. One that is cut off or altered is refused."""
    from blockstore.vm.snapshot import portable

    mount = mounts.find(mountpoint)
    domain, place = new_place(mount, name or portable.read_header(source)[0])
    with snapshot_file.making(mount, domain) as (path, descriptor), progress("importing") as report:
        portable.import_into(source, descriptor, report)
        snapshot_file.publish(mount, path, place)


def new_place(mount: mounts.Mount, name: str) -> tuple[str, Path]:
    """Domain and file of a snapshot that is to be made. Raises InputError, BusyError."""
    domain, short = snapshot_file.domain_of(name), name.split("/", 1)[-1]
    snapshot_file.check_name(short)
    place = snapshot_file.place_of(mount, domain, short)
    if domain and not snapshot_file.is_there(mount.path / domain):
        raise InputError(f"there is no folder {mount.path / domain}; make it first: mkdir {mount.path / domain}")
    if (mount.path / domain).is_symlink():
        raise InputError(f"{mount.path / domain} is a symbolic link and may lead out of the mount; name a folder")
    if snapshot_file.is_there(place):
        raise snapshot_file.taken(mount, place)
    return domain, place


def _path_of(mount: mounts.Mount, name: str) -> Path:
    """Also of one that is damaged. Raises InputError for one that is called so in a domain only, for that may be the
    wrong one."""
    place = snapshot_file.place_of(mount, snapshot_file.domain_of(name), name.rsplit("/", 1)[-1])
    if snapshot_file.is_there(place):
        return place
    found = snapshot_file.find(mount, name)
    raise InputError(f"{mount.path} has no snapshot '{name}' at the top; write {found.name} if you mean that one")


def _loaded(mount: mounts.Mount, path: Path) -> Snapshot | None:
    """One that is damaged, or was deleted meanwhile, is told of and does not keep the others from being listed."""
    try:
        return snapshot_file.load(mount, path)
    except (StateError, InputError, MountError) as error:
        warn(str(error))
        return None


def _described(mount: mounts.Mount, found: list[Snapshot]) -> dict[str, dict[str, Any]]:
    if not found:
        return {}
    volumes = client.ask(mount.state, {"do": "status", "each_snapshot": True})["report"]["volumes"]
    found = sorted(found, key=lambda each: natural(each.name))
    return {each.name: _fields(each, volumes.get(str(each.path.relative_to(mount.path)), {})) for each in found}


def _fields(snapshot: Snapshot, volume: dict[str, Any]) -> dict[str, Any]:
    facts = snapshot.facts
    return {
        "vm": facts.vm,
        "taken_at": datetime.fromtimestamp(facts.taken_at).astimezone().isoformat(timespec="seconds"),
        "memory": snapshot.memory_bytes,
        "touched": volume.get("touched", 0),
        "unique": sum(volume.get(key, 0) for key in UNIQUE),
        "device_state": snapshot.device_bytes,
        "qemu": facts.qemu,
        "machine": facts.machine,
        "command": [facts.program, *facts.arguments],
        "folder": facts.folder,
        "disks": [base.images[0].path for base in facts.disks],
    }


def _print(described: dict[str, dict[str, Any]]) -> None:
    rows = [("snapshot", "vm", "taken", "memory", "unique")]
    for name, fields in described.items():
        taken = time.strftime("%Y-%m-%d %H:%M", datetime.fromisoformat(fields["taken_at"]).timetuple())
        rows.append((name, fields["vm"], taken, format_size(fields["memory"]), format_size(fields["unique"])))
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for row in rows:
        cells = [text.ljust(width) for text, width in zip(row[:3], widths, strict=False)]
        cells += [text.rjust(width) for text, width in zip(row[3:], widths[3:], strict=True)]
        say("  ".join(cells).rstrip())
