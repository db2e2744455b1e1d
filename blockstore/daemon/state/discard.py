"""Deleting a state and all that it has in its tier, when nobody serves it. Never anything but a state of ours."""

from __future__ import annotations

from pathlib import Path

from blockstore.daemon.host import mounts
from blockstore.daemon.state.states import remove_state
from blockstore.daemon.supervise import phase
from blockstore.daemon.tiers import spill
from blockstore.errors import BlockstoreError, BusyError, InputError, MountError, state_in_use
from blockstore.store.state import superblock
from blockstore.store.state.home import DirectoryHome


def check_unserved(state: Path) -> None:
    """Raises InputError for a directory that is not there, StateError for one that is not recognised as a state by its
    superblock, BusyError for a state that is served. Changes nothing."""
    if not state.is_dir():
        raise InputError(f"there is no state directory {state}")
    superblock.check_version(state)
    for mount in mounts.served_from(state):
        raise BusyError(
            f"the state directory {state} is in use by the mount at {mount.path}; "
            f"end both: blockstore umount --discard {mount.path}"
        )
    if phase.load(state) is not None:  # of a mount that is detached, or of another name space
        raise state_in_use(str(state))


def discard(state: Path) -> None:
    """Deletes the state, whose lock keeps others from using it meanwhile. Raises BusyError when they do already,
    InputError, MountError when something is left."""
    home, left = DirectoryHome(state), ""
    try:
        try:
            spill.discard(home)
        except BlockstoreError as error:
            left = str(error)
        remove_state(state)
    finally:
        home.close()
    if left:
        raise MountError(f"the state is deleted, but not what it had in its tier, which you may delete: {left}")
