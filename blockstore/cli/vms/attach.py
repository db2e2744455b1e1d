"""`blockstore attach`: control the resident part of a VM that somebody else has started."""

from __future__ import annotations

import os
from pathlib import Path

import click

from blockstore.cli.output import warn
from blockstore.cli.types.number import WholeNumber
from blockstore.cli.types.paths import DIRECTORY
from blockstore.cli.types.resident_size import RESIDENT, target_option
from blockstore.daemon.control import client
from blockstore.daemon.control.attachments import Attachment, ask_to_attach
from blockstore.daemon.host import mounts
from blockstore.daemon.host.process_stat import start_time
from blockstore.errors import InputError
from blockstore.vm.memory.mechanism import own_cgroup


@click.command()
@click.argument("pid", type=WholeNumber(min=1))
@click.option("--resident", type=RESIDENT, default="auto", show_default=True, help="A size to hold, or auto.")
@target_option
@click.option("--off", is_flag=True, help="Leave this VM alone from now on.")
@click.option("--mount", "mountpoint", type=DIRECTORY, help="The mount. Default: the one whose file it has mapped.")
def attach(pid: int, resident: int | str, target: float, off: bool, mountpoint: Path | None) -> None:
    """Hold the resident part of the VM with the process PID down: what it does not use leaves the page cache.

    Returns at once; the mount's controller does it until the VM ends, and `blockstore status` shows it. Again with
    other options changes them.

    \b
    Example:
      blockstore attach $(pgrep -f guest=vm1) --resident 256M
    """
    found = _files_of(pid, [mounts.find(mountpoint)] if mountpoint is not None else mounts.all_mounts())
    cgroup, version, limit_bytes = "", "", -1
    if not off:
        try:
            own = own_cgroup(pid)
            cgroup, version, limit_bytes = str(own.path), own.version, own.limit_bytes()
        except (LookupError, OSError) as error:
            warn(
                f"process {pid} has no memory cgroup of its own ({error.args[0]}); its pages are "
                "taken back by madvise instead"
            )
    for mount, number in found:
        if off:
            client.ask(mount.state, {"do": "detach", "volume": number})
            continue
        ask_to_attach(
            mount.state,
            Attachment(number, pid, start_time(pid), resident, target / 100, cgroup, version, limit_bytes),
        )


def _files_of(pid: int, candidates: list[mounts.Mount]) -> list[tuple[mounts.Mount, int]]:
    """The volumes that the process has mapped."""
    try:
        mapped = [(mount, each) for mount in candidates for each in mounts.mappings_of(pid, mount)]
    except (FileNotFoundError, ProcessLookupError):
        raise InputError(f"there is no process {pid}") from None
    except OSError as error:
        lack = "do it as root" if os.geteuid() else "root has no CAP_SYS_PTRACE here; do it outside of the container"
        raise InputError(f"process {pid} cannot be looked at: {error.strerror}; {lack}") from None
    found = {(mount, each.inode) for mount, each in mapped if each.is_shared}
    if mapped and not found:
        raise InputError(
            f"process {pid} maps {mapped[0][1].path} privately: what the VM writes never comes to the file; start it "
            "with share=on"
        )
    if not found:
        places = ", ".join(str(mount.path) for mount in candidates) or "any blockstore mount"
        raise InputError(f"process {pid} maps no file of {places}; is it the VM's own process?")
    return sorted(found)
