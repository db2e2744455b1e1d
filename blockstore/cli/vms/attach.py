"""`blockstore attach`: control the resident part of a VM that another program has started."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

import click

from blockstore.cli.output import warn
from blockstore.cli.types.paths import DIRECTORY
from blockstore.cli.types.resident_size import residency_options
from blockstore.daemon.control.attachments import OFF, Attachment, Residency, ask_to_attach
from blockstore.daemon.host import mounts
from blockstore.daemon.host.process_stat import start_time
from blockstore.errors import InputError
from blockstore.vm.memory.mechanism import in_cgroup, own_cgroup
from blockstore.vm.qemu import libvirt

_PROCESS: Final = re.compile("[0-9]{1,10}")
"""Larger numbers are no process's (proc(5), pid_max)."""


@click.command()
@click.argument("vm", required=False)
@residency_options
@click.option("--domain", metavar="NAME", help="The VM of this libvirt domain.")
@click.option("--off", is_flag=True, help="Leave this VM alone from now on.")
@click.option("--mount", "mountpoint", type=DIRECTORY, help="The mount. Default: the one whose file it has mapped.")
def attach(vm: str | None, residency: Residency, domain: str | None, off: bool, mountpoint: Path | None) -> None:
    """Hold the resident part of a VM down: what it does not use leaves the page cache. VM is its process, or its file
    in a mount.

    VMs are attached by themselves (`blockstore mount --attach`); this changes how much of one stays resident, or leaves
    it alone. Returns at once; the mount's controller does it until the VM ends, and `blockstore status` shows it.

    \b
    Example:
      blockstore attach $(pgrep -f guest=vm1) --resident 256M
      blockstore attach /run/vm-memory/blue/vm1 --resident-min 128M
      blockstore attach --domain vm1 --off
    """
    if (vm is None) == (domain is None):
        raise InputError("name one VM: its process, its file in a mount, or --domain NAME")
    candidates = [mounts.find(mountpoint)] if mountpoint is not None else mounts.all_mounts()
    if domain is not None:
        pid = libvirt.process_of(domain)
        found = _files_of(pid, candidates)
    elif _PROCESS.fullmatch(str(vm)):
        pid = int(str(vm))
        found = _files_of(pid, candidates)
    else:
        pid, mount = _process_of(Path(str(vm)), candidates)
        found = _files_of(pid, [mount])
    if off:
        residency = residency._replace(resident=OFF)
    attachment = Attachment(0, pid, start_time(pid), **residency._asdict())
    if not off:
        attachment = _with_cgroup(attachment)
    for mount, number in found:
        ask_to_attach(mount.state, attachment._replace(volume=number))


def _with_cgroup(attachment: Attachment) -> Attachment:
    """With the VM's own cgroup, if it has one; if not, that is said."""
    try:
        return in_cgroup(attachment, own_cgroup(attachment.pid))
    except (LookupError, OSError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        warn(
            f"process {attachment.pid} has no memory cgroup of its own ({reason}); its pages are taken back by madvise "
            "instead"
        )
        return attachment


def _process_of(path: Path, candidates: list[mounts.Mount]) -> tuple[int, mounts.Mount]:
    """The process that has the file mapped, and the file's mount, to which links may lead."""
    place = Path(os.path.abspath(path))
    for above in place.parents:
        mount = mounts.lookup(above)
        if mount is not None and mount in candidates:
            place = mount.path / place.relative_to(above)
            break
    else:
        places = ", ".join(str(each.path) for each in candidates) or "any blockstore mount"
        raise InputError(f"{path} is neither the number of a process nor a file of {places}")
    users = (each for each in mounts.mappings(mount) if each.path == str(place))
    pids = sorted({each.pid for each in users if each.is_shared and each.is_writable})
    if not pids:
        raise InputError(f"no process that can be seen here has {path} mapped, with share=on; is its VM running?")
    if len(pids) > 1:
        raise InputError(f"several processes have {path} mapped ({', '.join(map(str, pids))}); name the VM's own")
    return pids[0], mount


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
