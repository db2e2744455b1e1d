"""`blockstore reload`: replace the running daemon by the code that is installed now."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path
from typing import Final

import click

from blockstore.cli.types.paths import DIRECTORY
from blockstore.daemon.control import client
from blockstore.daemon.control.answers import CHECK_S
from blockstore.daemon.host import mounts
from blockstore.daemon.host.process_stat import has_ended
from blockstore.daemon.supervise import phase
from blockstore.errors import MountError

SERVES_S: Final = 120.0
"""How long the new daemon may take to answer; it reads all tables first."""

RETRY_S: Final = 0.05

END_S: Final = 60.0
"""How long the old daemon may take to end once it has agreed to; it has nothing to write back."""


@click.command()
@click.argument("mountpoint", type=DIRECTORY, required=False)
@click.option("--no-wait", is_flag=True, help="Return when the old daemon has ended; do not wait for the new one.")
def reload(mountpoint: Path | None, no_wait: bool) -> None:
    """Replace the daemon of the mount at MOUNTPOINT by the code that is installed now, under running VMs.

    Returns when the new one answers. Requests wait meanwhile, and none is lost. New code that would not start is
    refused, and the old daemon goes on. Where the daemon has died again and again, this ends the pause. A service
    manager that starts the new daemon only after this command has ended, as systemd does, needs --no-wait.

    \b
    Example:
      git pull && scripts/setup && blockstore reload /run/vm-memory
    """
    mount = mounts.find(mountpoint)
    paused = phase.load(mount.state)
    if paused is not None and paused.name in ("waiting", "paused"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(paused.supervisor_pid, signal.SIGUSR1)
        old_pid = 0
    else:
        old_pid = int(client.ask(mount.state, {"do": "reload"}, CHECK_S + client.CLIENT_S)["daemon_pid"])
    if no_wait:
        _await_end(mount, old_pid)
    else:
        _await_another(mount, old_pid)


def _await_end(mount: mounts.Mount, old_pid: int) -> None:
    """Waits for the process `old_pid` to end, END_S at most; 0 is none. Raises MountError."""
    if not old_pid:
        return
    try:
        pidfd = os.pidfd_open(old_pid)
    except ProcessLookupError:
        return
    try:
        if not has_ended(pidfd, END_S):
            raise MountError(
                f"the daemon (process {old_pid}) has not ended within {END_S:.0f} s; look at {mount.state}/daemon.log"
            )
    finally:
        os.close(pidfd)


def _await_another(mount: mounts.Mount, old_pid: int) -> None:
    deadline, tried = time.monotonic() + SERVES_S, False
    while time.monotonic() < deadline:
        time.sleep(RETRY_S)
        found = phase.load(mount.state)
        tried |= found is None or found.name != "paused"
        if not tried:
            continue  # the signal has not come through yet
        # Raises when the new one has died again, or nobody is there.
        if int(client.ask(mount.state, {"do": "hello"})["daemon_pid"]) != old_pid:
            return
    raise MountError(f"no new daemon answers within {SERVES_S:.0f} s; look at {mount.state}/daemon.log")
