"""`--attach`: which VMs the controller attaches without being asked."""

from __future__ import annotations

from typing import Final

import click

from blockstore.daemon.options import EVERY_FILE
from blockstore.errors import InputError

AUTO: Final = "auto"
NONE: Final = "none"

MOST_BYTES: Final = 1024
"""Of all patterns together: they are kept on one page with all else that a daemon leaves to the next."""

attach_option = click.option(
    "--attach",
    multiple=True,
    metavar="auto|none|PATTERN",
    help="Whose resident part is held down without `blockstore attach`: of every VM with a file of the mount as its "
    "memory (auto, the default), of none, or of those with files whose names match, as in 'libvirt/*'; may be given "
    "again.",
)


def patterns_of(wanted: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the patterns of names that the values stand for; without any, every file's. Raises InputError."""
    if not wanted or wanted == (AUTO,):
        return EVERY_FILE
    if wanted == (NONE,):
        return ()
    if AUTO in wanted or NONE in wanted:
        raise InputError(
            f"--attach {AUTO} and --attach {NONE} stand alone; leave out the others, or name patterns only"
        )
    if sum(len(each.encode()) for each in wanted) > MOST_BYTES:
        raise InputError(f"the patterns of --attach are longer than {MOST_BYTES} bytes; name fewer, with more stars")
    return wanted
