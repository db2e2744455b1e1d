"""Network addresses of VMs that were forked from one, and must differ."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_MACHINE_ID: Final = Path("/etc/machine-id")

_LOCALLY_ADMINISTERED: Final = "02"
"""The first byte of an address that no maker of network cards has given (IEEE 802, local bit)."""


def of(vm: str) -> str:
    """The same one each time for a VM of this name on this host, another one for any other."""
    import hashlib  # by those who want an address only

    try:
        host = _MACHINE_ID.read_bytes()
    except OSError:
        host = b""
    digest = hashlib.sha256(host + vm.encode()).digest()
    return ":".join((_LOCALLY_ADMINISTERED, *(f"{byte:02x}" for byte in digest[:5])))
