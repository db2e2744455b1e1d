"""What libvirt tells of its domains without being asked: the file with the number of each one's process.

Both its daemon for the whole host and a user's own write NAME.pid when they start a domain, and remove it when that has
ended (src/qemu/qemu_process.c, virPidFileConstructPath).
"""

from __future__ import annotations

import os
from pathlib import Path

from blockstore.daemon.host import process_stat
from blockstore.errors import InputError

SYSTEM = Path("/run/libvirt/qemu")


def places() -> list[Path]:
    """Returns the folders of the host's libvirt and of our user's."""
    runtime = os.environ.get("XDG_RUNTIME_DIR") or f"/run/user/{os.getuid()}"
    return [SYSTEM, Path(runtime) / "libvirt/qemu/run"]


def process_of(domain: str, folders: list[Path] | None = None) -> int:
    """Returns the process of a domain that runs. Raises InputError with a sentence for what is in the way."""
    folders = places() if folders is None else folders
    there = [folder for folder in folders if os.path.isdir(folder)]
    if not there:
        raise InputError(f"libvirt runs no VMs here: there is no {folders[0]}; name the VM's process instead")
    if "/" in domain or domain in ("", ".", ".."):
        raise InputError(f"'{domain}' is no name of a libvirt domain")
    for folder in there:
        try:
            pid = int((folder / f"{domain}.pid").read_text())
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it has no number in it"
            raise InputError(f"{folder / domain}.pid cannot be read: {reason}") from None
        if not any(_is_name_of(domain, argument) for argument in process_stat.command(pid)):
            raise InputError(
                f"process {pid}, which {folder / domain}.pid names, is not the domain {domain}; it has ended"
            )
        return pid
    raise InputError(f"libvirt has no domain '{domain}' that runs; `virsh list` shows those that do")


def _is_name_of(domain: str, argument: bytes) -> bool:
    """Returns whether QEMU's argument says that this is its guest. It has a comma of the name twice (qemu(1))."""
    said = b"guest=" + os.fsencode(domain).replace(b",", b",,")
    rest = argument.removeprefix(said)
    return argument.startswith(said) and (not rest or (rest.startswith(b",") and not rest.startswith(b",,")))
