"""`blockstore disks`: the overlays that `--disks` has left, and taking away those that nothing needs."""

from __future__ import annotations

from pathlib import Path

import click

from blockstore.cli.output import print_json, say
from blockstore.cli.types.paths import DIRECTORY
from blockstore.cli.types.sizes import format_size
from blockstore.daemon.host import mounts
from blockstore.daemon.host.mounts import Mount
from blockstore.errors import MountError
from blockstore.vm.snapshot import overlay_files
from blockstore.vm.snapshot.overlay_files import Overlay


@click.command()
@click.argument("folders", metavar="DIR...", type=DIRECTORY, nargs=-1, required=True)
@click.option("--delete", is_flag=True, help="Delete those that nothing needs.")
@click.option(
    "--mount",
    "mountpoints",
    type=DIRECTORY,
    multiple=True,
    help="A mount whose VMs and snapshots may need them; may be given several times. Default: the only one there is.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON, by path.")
def disks(folders: tuple[Path, ...], delete: bool, mountpoints: tuple[Path, ...], as_json: bool) -> None:
    """List the overlays that `--disks` of `fork`, `snapshot` and `restore` has made in these folders.

    Nothing needs that of a fork, or of a restored VM, when it has ended and its memory file is gone, unless another
    image in the folders, whatever its name, or a snapshot of a mount lies on it. An overlay that a VM went on in is its
    disk by now, and stays. Name all folders, and all mounts: what is elsewhere is not seen, but for VMs that run.

    \b
    Example:
      blockstore disks /var/lib/overlays
      blockstore disks /var/lib/overlays --delete
    """
    used = [mounts.find(path) for path in mountpoints or (None,)]
    found = overlay_files.overlays_in(folders, used)
    if delete:
        found = _deleted(folders, used, found)
    if as_json:
        fields = {
            str(each.path): {"vm": each.vm, "bytes": each.size_bytes, "needed_by": each.needed_by} for each in found
        }
        print_json(fields)
        return
    width = max((len(str(each.path)) for each in found), default=0)
    for each in found:
        last = "deleted" if delete else f"needed by {each.needed_by}" if each.needed_by else "needed by nothing"
        say(f"{each.path!s:{width}}  {format_size(each.size_bytes):>10}  {last}")


def _deleted(folders: tuple[Path, ...], used: list[Mount], found: list[Overlay]) -> list[Overlay]:
    """Deletes those that nothing needs, and then those that only these needed; returns them."""
    gone: list[Overlay] = []
    while unneeded := [each for each in found if not each.needed_by]:
        for each in unneeded:
            try:
                each.path.unlink(missing_ok=True)
            except OSError as error:
                raise MountError(f"{each.path} cannot be deleted: {error.strerror}") from None
        gone += unneeded
        found = overlay_files.overlays_in(folders, used)
    return gone
