"""`blockstore mount`: serve VM memory files in a directory."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import Final

import click

from blockstore.cli.paths import DIRECTORY
from blockstore.cli.sizes import SIZE
from blockstore.daemon import launch
from blockstore.daemon.options import MountOptions
from blockstore.daemon.serve import default_states
from blockstore.store.pool import MINIMUM_LIMIT_BYTES, check_limit

DEFAULT_LIMIT_SHARE: Final = 0.5
"""Of the host's memory, for the pool: the other half is for what is resident, and for everything else."""


@click.command()
@click.argument("mountpoint", type=DIRECTORY)
@click.option(
    "--state",
    type=DIRECTORY,
    help="Directory for everything that is stored. Default: one under /dev/shm, named after MOUNTPOINT.",
)
@click.option(
    "--pool-limit",
    type=SIZE,
    help="The most memory that stored blocks may take (512M, 2GiB). Default: half of this machine's memory.",
)
@click.option("--foreground", is_flag=True, help="Stay in the foreground and log to stderr; Ctrl-C unmounts.")
@click.option(
    "--no-lane",
    is_flag=True,
    help="Serve data through pyfuse3 alone: for comparison, not for VMs (slow; no clones, no hole punching).",
)
@click.option("--no-patch", is_flag=True, help="Do not look for similar blocks: share and compress only.")
@click.option(
    "--allow-other",
    is_flag=True,
    help="Let other users in, as far as the files' modes allow. libvirt needs this.",
)
@click.option(
    "--watchdog",
    type=click.FloatRange(min=0.5),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="Replace a daemon that gives no sign of life for so long.",
)
def mount(
    mountpoint: Path,
    state: Path | None,
    pool_limit: int | None,
    foreground: bool,
    no_lane: bool,
    no_patch: bool,
    allow_other: bool,
    watchdog: float,
) -> None:
    """Serve VM memory files in the directory MOUNTPOINT, which must exist and be empty.

    Returns when the mount serves. Every file in it can be the memory of one VM; files below one top-level directory
    share blocks with each other and with nobody else. What is stored outlives the mount: mount the same place (or
    --state) again, and the files are there.

    \b
    Example:
      mkdir -p /run/vm-memory
      blockstore mount /run/vm-memory --pool-limit 8G
    """
    target = _absolute(mountpoint)
    place = (state or _default_state(target)).absolute()
    options = MountOptions(
        mountpoint=str(target),
        state=str(place),
        pool_limit_bytes=pool_limit if pool_limit is not None else _default_limit_bytes(),
        lane=not no_lane,
        patching=not no_patch,
        allow_other=allow_other,
        remove_empty_state=state is None,
        foreground=foreground,
        watchdog_s=watchdog,
    )
    check_limit(options.pool_limit_bytes)
    if foreground:
        launch.become(options)
    for warning in launch.start(options):
        click.echo(f"blockstore: warning: {warning}", err=True)


def _absolute(mountpoint: Path) -> Path:
    """Where the mount will be, without a symbolic link; what cannot be resolved is left for the checks to name."""
    try:
        return mountpoint.resolve()
    except (OSError, RuntimeError):
        return Path(os.path.abspath(mountpoint))


def _default_state(target: Path) -> Path:
    """A name that tells the place, and tells places apart that look alike in it."""
    readable = str(target).strip("/").replace("/", "-") or "root"
    mark = hashlib.sha256(os.fsencode(target)).hexdigest()[:8]
    return default_states() / f"{readable[:64]}-{mark}"


def _default_limit_bytes() -> int:
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(int(memory_bytes * DEFAULT_LIMIT_SHARE), MINIMUM_LIMIT_BYTES)
