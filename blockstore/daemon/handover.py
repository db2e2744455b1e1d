"""What one daemon leaves to the next, beside the state: the file `daemon.handover` of the state directory.

It belongs to one mount, and is written anew by each first start. A new daemon that gets the descriptor of /dev/fuse
(notify.py) needs the kernel's INIT request, to tell libfuse what it told libfuse's predecessor
(docs/decisions.md, "Who holds the device keeps the mount").
"""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Final

from blockstore.daemon.fuse import fuse_abi as abi
from blockstore.errors import MountError
from blockstore.store.state.home import write_in_place

NAME: Final = "daemon.handover"

SIZE_BYTES: Final = 4096
"""Of the file; what it says is shorter, and padded."""

DESCRIPTOR_NAME: Final = "fuse"
"""How the descriptor of the mount is called while nobody serves it (FDNAME)."""


@dataclass(frozen=True)
class Handover:
    """`device` is MAJOR:MINOR of the mount, `init` its INIT request in hexadecimal digits, empty until it came."""

    device: str
    init: str = ""
    restarts: int = 0
    pool_limit_bytes: int = 0
    """What `blockstore set` has made of the limit, 0 if nothing."""
    background_cpu: float = -1.0
    """What it has made of the budget for background work, in per cent; negative if nothing."""
    attach: tuple[str, ...] | None = None
    """What it has made of the patterns of files whose VMs are attached automatically, None if nothing."""
    mounted_at: float = 0.0
    """When the mount was made, in seconds since 1970."""
    write_errors: int = 0
    """How often write-back of a file was found to have failed, since the mount was made or `verify` found all well."""
    rewritten_bytes: int = 0
    """Of these files, what was made dirty to be written again."""
    lost_writes: int = 0
    """How often that could not be done."""

    @property
    def init_request(self) -> bytes:
        return bytes.fromhex(self.init)

    def save(self, state: Path) -> Handover:
        """Write it, in place and on one page: a killed process leaves the old or the new one, and only the first save
        needs room. Raises OutOfRoom. Itself."""
        left_out = ("attach",) if self.attach is None else ()  # which an earlier version does not know
        fields = {name: value for name, value in asdict(self).items() if name not in left_out}
        data = json.dumps(fields).encode().ljust(SIZE_BYTES)
        assert len(data) == SIZE_BYTES
        write_in_place(state / NAME, data)
        return self

    def changed(self, state: Path, **fields: str | float | tuple[str, ...]) -> Handover:
        """Saved with these fields changed."""
        return replace(self, **fields).save(state)  # type: ignore[arg-type]

    def write_back_figures(self) -> dict[str, int]:
        """What `status` tells of write-back that has failed."""
        return {"errors": self.write_errors, "rewritten_bytes": self.rewritten_bytes, "lost": self.lost_writes}


def load(state: Path) -> Handover | None:
    """What the daemon before this one left; None if nothing. Raises MountError when it makes no sense."""
    try:
        return Handover(**json.loads((state / NAME).read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise MountError(f"{state / NAME} cannot be read ({error}); end the mount and make it anew") from None


def forget(state: Path) -> None:
    """The mount has ended."""
    with contextlib.suppress(OSError):
        (state / NAME).unlink(missing_ok=True)


def check_descriptor(descriptor: int, device: str) -> None:
    """Raise MountError if the descriptor is that of another mount than `device`, or none of /dev/fuse at all."""
    try:
        is_fuse = str(Path(f"/proc/self/fd/{descriptor}").readlink()) == "/dev/fuse"
        details = Path(f"/proc/self/fdinfo/{descriptor}").read_text()
    except OSError:
        is_fuse, details = False, ""
    if not is_fuse:
        raise MountError("the descriptor that was handed over is none of /dev/fuse; end the mount and make it anew")
    found = re.search(r"^fuse_connection:\s*(\d+)$", details, re.MULTILINE)  # newer kernels say it
    if found and found[1] != device.partition(":")[2]:
        raise MountError(
            f"the descriptor that was handed over belongs to the mount 0:{found[1]}, not to {device}; "
            "end both mounts and make them anew"
        )


def can_resend(init_request: bytes) -> bool:
    """Can this kernel give unanswered requests to a new daemon (FUSE_NOTIFY_RESEND, Linux 6.9)?"""
    if len(init_request) < abi.IN_HEADER.size + abi.INIT_IN.size + 4:
        return False
    flags = abi.INIT_IN.unpack_from(init_request, abi.IN_HEADER.size)[3]
    flags2 = int.from_bytes(init_request[abi.IN_HEADER.size + abi.INIT_IN.size :][:4], "little")
    return bool(flags & abi.INIT_EXT and flags2 & abi.HAS_RESEND)
