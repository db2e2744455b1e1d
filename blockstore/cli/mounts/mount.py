"""`blockstore mount`: serve VM memory files in a directory."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

import click

from blockstore.cli.output import warn
from blockstore.cli.types.address import ADDRESS
from blockstore.cli.types.attach_option import attach_option, patterns_of
from blockstore.cli.types.number import Percent, Seconds
from blockstore.cli.types.paths import DIRECTORY
from blockstore.cli.types.sizes import SIZE, format_size
from blockstore.daemon.host import memory_limit, mounts
from blockstore.daemon.options import ANY_CORE, DEFAULT_BACKGROUND_CPU, DEFAULT_COLD_AFTER_S, FOLLOW, MountOptions
from blockstore.daemon.state.states import default_state
from blockstore.daemon.supervise import launch
from blockstore.store.state.home import SECTOR_BYTES, free_bytes_under
from blockstore.store.state.pool_limit import MINIMUM_LIMIT_BYTES, check_limit

DEFAULT_LIMIT_SHARE: Final = 0.5
"""Of the host's memory, or the cgroup's, for the pool: the other half is for what is resident, and everything else."""

DEFAULT_ROOM_SHARE: Final = 0.9
"""Of the room in the file system under the state: the tables need some, and a full one is worse than a full pool."""


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
    help="The most memory that stored blocks may take (512M, 2GiB). Default: half of the memory of this machine, or of "
    "the cgroup.",
)
@click.option("--foreground", is_flag=True, help="Stay in the foreground and log to stderr; Ctrl-C unmounts.")
@click.option(
    "--lane-cpu",
    type=click.Choice([FOLLOW, ANY_CORE]),
    default=FOLLOW,
    show_default=True,
    help="Keep the thread that answers faults on the core from which they come (follow), as far as the affinity of the "
    "daemon allows, or leave it to the scheduler (none).",
)
@click.option("--no-patch", is_flag=True, help="Do not look for similar blocks: share and compress only.")
@click.option(
    "--allow-other",
    is_flag=True,
    help="Let other users in, as far as the files' modes allow. libvirt needs this.",
)
@click.option(
    "--watchdog",
    type=Seconds(min=0.5),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="Replace a daemon that gives no sign of life for so long.",
)
@click.option(
    "--metrics",
    type=ADDRESS,
    metavar="ADDR:PORT",
    help="Serve metrics for Prometheus there (127.0.0.1:9180, [::1]:9180; :9180 for all addresses).",
)
@click.option(
    "--background-cpu",
    type=Percent(0, 100),
    default=DEFAULT_BACKGROUND_CPU,
    show_default=True,
    metavar="PERCENT",
    help="Of one core, to encode with zstd what is cold: a third less memory for it. So much it may take from others. "
    "Cores on which its threads, at idle priority, wait for less than a quarter of their time are used beyond that, "
    "unless the daemon's cgroup has a CPU limit or VMs fault much. 0 is off.",
)
@click.option(
    "--cold-after",
    type=Seconds(min=0),
    default=DEFAULT_COLD_AFTER_S,
    show_default=True,
    metavar="SECONDS",
    help="How long something must be stored without change to be cold.",
)
@click.option(
    "--spill",
    default="",
    metavar="URL",
    help="Where cold memory goes when the pool is nearly full: file:/PATH, a file on a disk, or "
    "valkey://HOST:PORT[,HOST:PORT...]. The state remembers it.",
)
@attach_option
def mount(
    mountpoint: Path,
    state: Path | None,
    pool_limit: int | None,
    foreground: bool,
    lane_cpu: str,
    no_patch: bool,
    allow_other: bool,
    watchdog: float,
    metrics: tuple[str, int] | None,
    background_cpu: float,
    cold_after: float,
    spill: str,
    attach: tuple[str, ...],
) -> None:
    """Serve VM memory files in the directory MOUNTPOINT, which must exist and be empty.

    Where MOUNTPOINT is a symbolic link, the mount is made where it leads; every command follows links to a mount.
    Returns when the mount serves. Every file in it can be the memory of one VM; files below one top-level directory
    share blocks with each other and with nobody else. What is stored outlives the mount: mount the same place (or
    --state) again, and the files are there.

    \b
    Example:
      mkdir -p /run/vm-memory
      blockstore mount /run/vm-memory --pool-limit 8G
      blockstore mount /run/vm-memory --pool-limit 8G --spill file:/var/lib/blockstore/vm-memory
    """
    target = _absolute(mountpoint)
    place = (state or default_state(target)).absolute()
    options = MountOptions(
        mountpoint=str(target),
        state=str(place),
        pool_limit_bytes=pool_limit if pool_limit is not None else _default_limit_bytes(place),
        lane_cpu=lane_cpu,
        patching=not no_patch,
        allow_other=allow_other,
        remove_empty_state=state is None,
        foreground=foreground,
        watchdog_s=watchdog,
        metrics=metrics,
        background_cpu=background_cpu,
        cold_after_s=cold_after,
        spill=spill,
        attach=patterns_of(attach),
    )
    check_limit(options.pool_limit_bytes)
    if foreground:
        launch.become(options)
    room_bytes = _room_bytes(place)
    warnings = launch.start(options)
    if options.pool_limit_bytes > room_bytes:
        warnings.append(
            f"the file system under {place} has room for {format_size(room_bytes)}, less than the pool limit of "
            f"{format_size(options.pool_limit_bytes)}: writes will wait when it is full"
        )
    for warning in warnings:
        warn(warning)


def _absolute(mountpoint: Path) -> Path:
    """Where the mount will be, without a symbolic link; what cannot be resolved is left for the checks to name.

    A mount that is there already is not asked: systemd may have kept it for a daemon that is still to come.
    """
    there = mounts.lookup(mountpoint)
    if there is not None:
        return there.path
    try:
        return mountpoint.resolve()
    except (OSError, RuntimeError):
        return Path(os.path.abspath(mountpoint))


def _default_limit_bytes(state: Path) -> int:
    memory_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    cgroup_bytes = memory_limit.of_process()
    if cgroup_bytes is not None:
        memory_bytes = min(memory_bytes, cgroup_bytes)
    limit_bytes = min(
        memory_bytes * DEFAULT_LIMIT_SHARE,
        memory_limit.room_for_pool(memory_bytes),
        _room_bytes(state) * DEFAULT_ROOM_SHARE,
    )
    return max(int(limit_bytes), MINIMUM_LIMIT_BYTES)


def _room_bytes(state: Path) -> int:
    """What the file system under the state has for a pool, that of the state itself included."""
    existing = next(path for path in (state, *state.parents) if os.path.isdir(path))
    try:
        own_bytes = (state / "pool").stat().st_blocks * SECTOR_BYTES
    except OSError:
        own_bytes = 0
    return free_bytes_under(existing) + own_bytes
