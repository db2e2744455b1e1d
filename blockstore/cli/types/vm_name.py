"""What a VM may be called on the command line."""

from __future__ import annotations

from pathlib import PurePosixPath

from blockstore.errors import InputError


def check_vm_name(name: str) -> None:
    """Raises InputError for what is no name of a file below a mount."""
    place = PurePosixPath(name)
    if place.is_absolute() or ".." in place.parts or not place.parts or name.endswith("/"):
        raise InputError(f"'{name}' is no name of a file below the mount; write it as vm1 or blue/vm1")
