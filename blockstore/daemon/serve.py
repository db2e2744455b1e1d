"""The daemon's process: opens what is stored, serves it at a mount, and closes it.

State that is inconsistent because a daemon was killed is put in order here: volumes without a name, names that
nobody has any more.
"""

from __future__ import annotations

import logging
import os
import sqlite3
from pathlib import Path

from blockstore.daemon import handover
from blockstore.daemon.control.answers import Answers
from blockstore.daemon.handover import Handover
from blockstore.daemon.host import memory_limit
from blockstore.daemon.namespace import file_limit
from blockstore.daemon.namespace.names import Names
from blockstore.daemon.namespace.names_copy import copied_names
from blockstore.daemon.options import MountOptions
from blockstore.daemon.session import Session
from blockstore.daemon.state import state_loss
from blockstore.daemon.state.states import remove_state
from blockstore.daemon.supervise import pressure
from blockstore.daemon.supervise.notify import Service
from blockstore.daemon.tiers import spill
from blockstore.daemon.tiers.sources import Sources
from blockstore.errors import BlockstoreError, InputError, MountError, OutOfRoom, StateError
from blockstore.store.state.home import DirectoryHome, no_room_under
from blockstore.store.steps import run
from blockstore.store.store import Store
from blockstore.store.tiers import Tier, TierAway
from blockstore.store.volume import file_name, read_header

log = logging.getLogger(__name__)


def serve(options: MountOptions, service: Service) -> None:
    """Serve until unmounted; `service` is told when the mount serves.

    Raises MountError, StateError, OutOfRoom, BusyError before that.
    """
    file_limit.raise_descriptor_limit()
    warnings = pressure.prepare()
    state = Path(options.state)
    home = DirectoryHome(state)
    try:
        file_limit.check(home)
        inherited = _inherit(service, state)
        limit_bytes = (inherited and inherited[1].pool_limit_bytes) or options.pool_limit_bytes
        found = [
            memory_limit.complaint(limit_bytes, memory_limit.of_process()),
            state_loss.risk(Path(os.path.realpath(state)), os.geteuid()),
        ]
        warnings += filter(None, found)
        if not inherited:
            _check_volumes(state, home)
        # VMs that run are better served with what is left than not at all.
        store = Store(home, limit_bytes, patching=options.patching, mend=bool(inherited))
    except BaseException:
        home.close()
        raise
    try:
        names = _open_names(state, store)
        try:
            if not inherited:
                names.forget_mount()
            _reconcile(store, names, keep_nameless=bool(inherited))
            tier, found = spill.open_for_mount(state, store, options.spill, takes_over=bool(inherited))
            try:
                sources = Sources(state, store.remote.sources)
                session = Session(options, store, names, service, inherited, warnings + found, tier, sources)
                session.run(Answers(session).handlers())
                sources.close()
                is_over = not store.volumes and options.remove_empty_state
                if is_over and tier is not None:
                    _remove(tier)
            finally:
                if tier is not None:
                    tier.close()
        finally:
            names.close()
    finally:
        store.close()
    if is_over and state.is_dir():  # it may have been deleted, or renamed, under us
        try:
            remove_state(state)
        except InputError as error:  # nobody has asked for that
            log.warning("%s", error)


def _remove(tier: Tier) -> None:
    """Nothing that is needed is in there."""
    try:
        tier.remove()
    except (BlockstoreError, TierAway) as error:
        log.warning("what is left of the state in its tier is not deleted: %s", error)


def _inherit(service: Service, state: Path) -> tuple[int, Handover] | None:
    """The descriptor of a mount that another daemon served, and what that one left for us."""
    descriptor = service.kept.get(handover.DESCRIPTOR_NAME)
    if descriptor is None:
        return None
    left = handover.load(state)
    if left is None or not left.init:
        raise MountError(f"a mount was handed over, but {state / handover.NAME} is not there; end it and make it anew")
    handover.check_descriptor(descriptor, left.device)
    return descriptor, left.changed(state, restarts=left.restarts + 1)


def _check_volumes(state: Path, home: DirectoryHome) -> None:
    """Raise StateError, before anything is changed, when a file's map is missing or empty."""
    if not (state / "names.sqlite").exists():
        return
    with copied_names(state) as names:
        files = names.files()
    there = set(home.names())
    for inode, path in files.items():
        if path.startswith("("):
            continue  # deleted, and its map perhaps as well
        if file_name(inode) not in there or read_header(home, file_name(inode)) is None:
            raise StateError(
                f"the state in {state} is damaged: the map of '{path}' is missing; "
                "restore the directory, or mount with an empty one"
            )


def _reconcile(store: Store, names: Names, *, keep_nameless: bool) -> None:
    """A killed daemon may have left a volume without a name, also one that lost its name while it was open."""
    if not keep_nameless:
        for inode in names.nameless():
            names.forget(inode)
    files = names.files()
    for volume in list(store.volumes.values()):
        if volume.number not in files:
            run(store.delete_steps(volume))


def _open_names(state: Path, store: Store) -> Names:
    """Raises StateError where there are volumes, but no names: these would all be taken for nameless."""
    path = state / "names.sqlite"
    if store.volumes and not (path.exists() and path.stat().st_size):
        raise StateError(
            f"the state in {state} is damaged: it has memory files, but {path.name} is missing or empty; "
            "restore the directory, or mount with an empty one"
        )
    try:
        return Names(path, os.geteuid(), os.getegid())
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_FULL:
            raise OutOfRoom(no_room_under(str(state))) from None
        raise StateError(
            f"the state in {state} is damaged: {path.name}: {error}; restore the directory, or mount with an empty one"
        ) from None
