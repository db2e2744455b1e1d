"""`--attach`: which VMs the controller attaches without being asked."""

from __future__ import annotations

import json
from typing import Final

import click

from blockstore.daemon.options import EVERY_FILE, MOST_PATTERNS_BYTES
from blockstore.errors import InputError

AUTO: Final = "auto"
NONE: Final = "none"

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
    if len(json.dumps(wanted)) > MOST_PATTERNS_BYTES:
        raise InputError(
            f"the patterns of --attach take more than {MOST_PATTERNS_BYTES} bytes as JSON; name fewer, with more stars"
        )
    return wanted
