"""`blockstore umount`: end a mount, without losing a block."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import time
from pathlib import Path
from typing import Final

import click

from blockstore.cli.output import complain, warn
from blockstore.cli.types.paths import DIRECTORY
from blockstore.daemon.control import client
from blockstore.daemon.host import mounts
from blockstore.daemon.host.unmount import unmount, unmount_unused
from blockstore.daemon.state import state_loss
from blockstore.daemon.state.discard import check_unserved
from blockstore.daemon.state.discard import discard as discard_state
from blockstore.daemon.state.states import check_default_states, check_owner, default_state
from blockstore.daemon.supervise import phase
from blockstore.errors import BusyError, InputError, MountError, StateLost
from blockstore.vm.memory import write_errors

DAEMON_END_S: Final = 120.0
"""How long the daemon may take to end after the unmount: it closes its files and frees nameless ones."""


_START_LOOK_S: Final = 0.05


@click.command()
@click.argument("mountpoint", type=DIRECTORY, required=False)
@click.option(
    "--force",
    is_flag=True,
    help="Take the mount out of the tree even while it is in use, or its state is gone; the daemon ends after its last "
    "user.",
)
@click.option("--discard", is_flag=True, help="Delete the state as well, and what it has in a tier: all is gone.")
@click.option("--state", type=DIRECTORY, help="With --discard: a state that is not mounted.")
def umount(mountpoint: Path | None, force: bool, discard: bool, state: Path | None) -> None:
    """End the mount at MOUNTPOINT when everything is written back.

    Refused while a process has a file open or mapped, because a VM would lose its memory, and while it is mounted
    elsewhere too: by a bind mount, or in another mount name space (a container). Refused also when the state was
    deleted or renamed under the mount, because all files would be lost, unless --force or --discard. The state stays in
    its directory, and a later mount of the same place shows the same files, unless --discard.

    --discard also deletes the state of a MOUNTPOINT where nothing is mounted any more, or the one in --state; never
    one that a daemon serves, and nothing that is no state of blockstore.

    \b
    Example:
      blockstore umount /run/vm-memory
      blockstore umount --discard /run/vm-memory
      blockstore umount --discard --state /var/lib/vm-state
    """
    if mountpoint is None and state is None:
        raise InputError("say which mount: blockstore umount MOUNTPOINT")
    if state is not None and not discard:
        raise InputError("--state is for --discard; without it name the mountpoint only")
    if discard and (mountpoint is None or mounts.lookup(mountpoint) is None):
        _discard_unmounted(mountpoint, state)
        return
    mount = mounts.find(mountpoint)
    if state is not None and os.path.realpath(state) != os.path.realpath(mount.state):
        raise InputError(f"the mount at {mount.path} has the state {mount.state}, not {state}; leave --state out")
    if loss := state_loss.find_served(mount.state, ends=force or discard):
        if not (force or discard):
            raise StateLost(f"{mount.path} stays mounted: {loss}")
        warn(loss)
    else:
        _await_look(mount, force=force)
    supervisor_pid, last_pid = _serving(mount.state)
    failure, keepers = unmount_unused(mount)
    if failure:
        if not force:
            now = phase.load(mount.state)
            if now is not None and now.name in phase.UNSERVED:  # also our own controller cannot leave it then
                keepers += f", and no daemon runs that would let them go ({now.reason})"
            raise BusyError(
                f"{mount.path} is in use by {keepers}: {failure}; "
                "end these first, or detach the mount from the tree with --force"
            )
        failure = unmount(str(mount.path), lazy=True)
        if failure:
            raise MountError(f"{mount.path} cannot be unmounted: {failure}")
        detached = (
            f"{mount.path} is detached; what serves it (process {last_pid}) goes on until the last of these has ended "
            f"or closed its files: {keepers}"
        )
        if discard:
            raise BusyError(f"{detached}; its state could not be deleted: do that then: rm -r {mount.state}")
        complain(detached)
        return
    if supervisor_pid:
        with contextlib.suppress(ProcessLookupError):
            os.kill(supervisor_pid, signal.SIGUSR1)  # it may be between two daemons
    if last_pid and not _ended(last_pid):
        raise MountError(
            f"{mount.path} is unmounted, but what served it (process {last_pid}) has not ended within "
            f"{DAEMON_END_S:.0f} s: a mount name space that cannot be seen from here may have it, or the daemon hangs; "
            f"look at {mount.state}/daemon.log"
        )
    if discard and os.path.isdir(mount.state):
        discard_state(mount.state)


def _serving(state: Path) -> tuple[int, int]:
    """The supervisor, 0 if there is none, and the process that ends last, 0 if that cannot be told."""
    found = phase.load(state)
    if found is not None:
        return found.supervisor_pid, found.supervisor_pid  # it ends after its daemon
    served = state_loss.processes(state)  # its file may be deleted
    if served.supervisor_pid:
        return served.supervisor_pid, served.supervisor_pid
    try:
        return 0, int(client.ask(state, {"do": "hello"})["daemon_pid"])
    except MountError:
        return 0, 0  # a dead or deaf daemon must not keep its mount alive


def _await_look(mount: mounts.Mount, *, force: bool) -> None:
    """Pages that the daemon before this one has lost would leave as if they were clean."""
    deadline = time.monotonic() + write_errors.LOOK_S
    while (now := phase.load(mount.state)) is not None and now.name == "starting" and time.monotonic() < deadline:
        time.sleep(_START_LOOK_S)
    if now is not None and now.name in phase.UNSERVED:
        return  # perhaps none will look for long
    try:
        write_errors.await_look(mount.state)
    except BusyError:
        if not force:
            raise
    except MountError:
        pass  # a dead or deaf daemon must not keep its mount alive


def _discard_unmounted(mountpoint: Path | None, state: Path | None) -> None:
    """Deletes the state in the directory `state`, or the one that `mount` would use for `mountpoint` by default."""
    if state is None:
        assert mountpoint is not None
        state = default_state(Path(os.path.realpath(mountpoint)))
        if not os.path.isdir(state):
            raise InputError(
                f"{mountpoint} is not a blockstore mount, and no mount of it has left a state in {state}; if its state "
                "is elsewhere, name that with --state"
            )
        check_default_states(state)
    state = Path(os.path.realpath(state))
    check_owner(state)
    check_unserved(state)
    discard_state(state)


def _ended(pid: int) -> bool:
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], DAEMON_END_S)[0])
    finally:
        os.close(descriptor)
