"""Verification of a state: by the daemon that serves it, or of a directory that nobody serves.

What store/checks/verify.py says of blocks and rows, and what can be said of names: the database, names without a file,
files without a name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from blockstore.daemon.namespace import file_limit
from blockstore.daemon.namespace.names import Names
from blockstore.daemon.namespace.names_copy import copied_names
from blockstore.daemon.state.states import check_owner
from blockstore.daemon.tiers import spill
from blockstore.errors import InputError
from blockstore.store.checks import verify, verify_pieces
from blockstore.store.checks.verify import Finding, Verification
from blockstore.store.checks.verify_pieces import PieceCheck
from blockstore.store.state.home import CopiedHome, DirectoryHome, Home
from blockstore.store.state.pool_limit import MINIMUM_LIMIT_BYTES
from blockstore.store.state.superblock import check_version
from blockstore.store.store import Store
from blockstore.store.tiers import TierAway, away_is_an_error

if TYPE_CHECKING:
    from blockstore.daemon.session import Session

Result = dict[str, Any]
"""A Verification as a dictionary, with `names` of its volumes by number (as text, as JSON has it)."""


class OnlineVerification:
    """The one that is under way in a daemon, or the last one."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._result = Verification()
        self._scope: trio.CancelScope | None = None
        self._error = ""

    def start(self, *, repair: bool) -> Result:
        """Begin, beside everything else."""
        if self._scope is not None:
            return {"error": "a verification of this mount is under way already; wait for it, or end it"}
        self._result, self._scope, self._error = Verification(), trio.CancelScope(), ""
        trio.lowlevel.spawn_system_task(self._run, repair)
        return {}

    def cancel(self) -> None:
        """End the one that is under way, if any."""
        if self._scope is not None:
            self._scope.cancel()

    def progress(self) -> Result:
        """`done` of `total` while it is under way; then the result."""
        result = self._result
        if self._scope is not None:
            return {"running": True, "done": result.done, "total": result.total}
        if self._error:
            return {"error": self._error}
        return {"running": False, **_told(result, self._session.names.files())}

    async def _run(self, repair: bool) -> None:
        session, scope = self._session, self._scope
        assert scope is not None
        try:
            with scope:
                unreadable = await self._check_pieces()
                steps = verify.steps(session.store, self._result, repair=repair, unreadable=unreadable)
                await session.stepper.take(session.store.locked(steps))
                for finding in _findings_of_names(session.names, session.store):
                    self._result.add(finding)
            if scope.cancelled_caught:
                self._error = "the verification was ended before it was done"
            elif self._result.found == self._result.repaired:
                session.forget_damage()
        except TierAway as error:
            self._error = f"{error}; verify when it is back"
        except Exception as error:  # a system task that fails takes the daemon along
            self._error = f"the verification failed: {error!r}"
        finally:
            self._scope = None

    async def _check_pieces(self) -> dict[int, int]:
        """What is in the tier, which is asked in other threads. Raises TierAway."""
        session, check, answer = self._session, PieceCheck(self._session.store, self._result), None
        steps = check.steps()
        while session.tier is not None:
            try:
                with session.store_lock:
                    ask = steps.send(answer)
            except StopIteration:
                break
            answer = None
            if ask is not None:
                answer = await trio.to_thread.run_sync(ask, session.tier, abandon_on_cancel=True)
            await trio.lowlevel.checkpoint()
        return check.unreadable


def verify_state(state: Path, *, repair: bool, progress: Callable[[int, int], None]) -> Result:
    """Verify a directory that nobody serves, and what it has in a tier. Raises StateError if it is none or cannot be
    looked at, BusyError, MountError if its tier is away.

    Without `repair` nothing is changed.
    """
    if not state.is_dir():
        raise InputError(f"there is no directory {state}; `blockstore status --json` names the state of a mount")
    check_owner(state)
    check_version(state)
    file_limit.raise_descriptor_limit()
    directory = DirectoryHome(state)
    home: Home = directory if repair else CopiedHome(directory)
    with ExitStack() as stack:
        try:
            file_limit.check(home)
            store = Store(home, MINIMUM_LIMIT_BYTES, look=True)
        except BaseException:
            home.close()
            raise
        stack.callback(store.close)
        result = Verification()
        check, tier = PieceCheck(store, result), spill.open_remembered(state, store)
        if tier is not None:
            stack.callback(tier.close)
            with away_is_an_error():
                verify_pieces.run(check.steps(), tier)
        for _ in verify.steps(store, result, repair=repair, unreadable=check.unreadable):
            progress(result.done, result.total)
        names = stack.enter_context(copied_names(state))
        for finding in _findings_of_names(names, store):
            result.add(finding)
        told = _told(result, names.files())
    if repair and result.found:
        # Opening it to be used rebuilds all that is rebuilt at each start, and marks what is lost.
        Store(DirectoryHome(state), MINIMUM_LIMIT_BYTES, mend=True, give_up=True).close()
    return told


def _told(result: Verification, names: dict[int, str]) -> Result:
    return {**result.to_dict(), "names": {str(number): name for number, name in names.items()}}


def _findings_of_names(names: Names, store: Store) -> Iterator[Finding]:
    for text in names.damage():
        yield Finding("name", text)
    files = names.files()
    # One without a name and without memory was being deleted: the memory goes first, and the name when that is done.
    for number in sorted(files.keys() - store.volumes.keys() - set(names.nameless())):
        yield Finding("name", f"the file {files[number]} has no memory: volume-{number} is not there")
    for number in sorted(store.volumes.keys() - files.keys()):
        yield Finding("name", f"volume-{number} has no name: no file of the mount shows it", number)
