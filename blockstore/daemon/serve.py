"""The daemon's process: from the options to the end of the mount.

Threads: trio's (the main one: pyfuse3, control socket, signals), the lane, the relay. Order at the end: the mount
goes first (the kernel has then written back everything), the lane sees it and ends, trio's side follows, and the
store is closed last.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import resource
import signal
import sqlite3
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import pyfuse3
import trio

from blockstore.daemon import control, mounts, throttle
from blockstore.daemon.door import Door
from blockstore.daemon.lane import Lane
from blockstore.daemon.names import Names
from blockstore.daemon.operations import Operations
from blockstore.daemon.relay import Relay
from blockstore.errors import MountError, OutOfRoom, StateError
from blockstore.store import census
from blockstore.store.home import DirectoryHome
from blockstore.store.report import describe
from blockstore.store.store import Store, run

log = logging.getLogger(__name__)

UNMOUNT_S: Final = 60.0
"""How long an unmount by signal may take: it writes back what is dirty, gigabytes at worst."""


@dataclass(frozen=True)
class MountOptions:
    """What `blockstore mount` was told."""

    mountpoint: str
    state: str
    pool_limit_bytes: int
    lane: bool = True
    patching: bool = True
    allow_other: bool = False
    remove_empty_state: bool = False

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> MountOptions:
        return cls(**json.loads(text))


def serve(options: MountOptions, ready: Callable[[list[str]], None]) -> None:
    """Mount and serve until unmounted. `ready` is called once, with warnings, when the mount serves.

    Raises MountError, StateError, OutOfRoom, BusyError before that; nothing is then left mounted.
    """
    _raise_descriptor_limit()
    state = Path(options.state)
    home = DirectoryHome(state)
    try:
        store = Store(home, options.pool_limit_bytes, patching=options.patching)
    except BaseException:
        home.close()
        raise
    try:
        names = _open_names(state, store)
        try:
            _reconcile(store, names, state)
            _Daemon(options, store, names).run(ready)
            empty = not store.volumes
        finally:
            names.close()
    finally:
        store.close()
    if empty and options.remove_empty_state:
        remove_state(state)


def _raise_descriptor_limit() -> None:
    """Every volume holds two descriptors, and the usual limit is a thousand."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def remove_state(state: Path) -> None:
    """Delete a state directory that no daemon holds, file by file."""
    for entry in state.iterdir():
        entry.unlink()
    state.rmdir()
    with contextlib.suppress(OSError):
        if state.parent.name == default_states().name:
            state.parent.rmdir()


def default_states() -> Path:
    """Where state directories are made for mounts that name none: memory, one folder for each user."""
    return Path(f"/dev/shm/blockstore-{os.geteuid()}")


class _Daemon:
    def __init__(self, options: MountOptions, store: Store, names: Names) -> None:
        self._options = options
        self._store = store
        self._names = names
        self._door = Door()
        self._operations = Operations(names, store, self._door, self._state_free_bytes)
        self._relay: Relay | None = None
        self._lane: Lane | None = None

    def run(self, ready: Callable[[list[str]], None]) -> None:
        flags = {"default_permissions", "subtype=blockstore"}
        flags.add(f"fsname={mounts.source_for(Path(self._options.state))}")
        if self._options.allow_other:
            flags.add("allow_other")
        try:
            pyfuse3.init(self._operations, self._options.mountpoint, flags)
        except RuntimeError:
            raise MountError(
                f"{self._options.mountpoint} cannot be mounted: the kernel or fusermount3 refused; "
                "are you allowed to mount there?"
            ) from None
        try:
            trio.run(self._main, ready)
        finally:
            pyfuse3.close(unmount=False)

    async def _main(self, ready: Callable[[list[str]], None]) -> None:
        if self._options.lane:
            self._start_lane()
        try:
            async with trio.open_nursery() as nursery:
                handlers: dict[str, control.Handler] = {"hello": self._hello, "status": self._status}
                nursery.start_soon(control.serve, Path(self._options.state), handlers)
                nursery.start_soon(self._watch_signals)
                nursery.start_soon(self._operations.compact)
                nursery.start_soon(self._announce, ready)
                await pyfuse3.main()
                nursery.cancel_scope.cancel()
        except BaseException:
            log.critical("names are no longer served; memory is, until its last user has gone", exc_info=True)
            self._unmount(lazy=True)
            raise
        finally:
            if self._relay is not None and self._lane is not None:
                self._relay.close()
                self._lane.join()
        await self._operations.delete_nameless()

    async def _announce(self, ready: Callable[[list[str]], None]) -> None:
        await self._operations.initialised.wait()
        warning = throttle.lift(mounts.find(Path(self._options.mountpoint)).device)
        if warning:
            log.warning("%s", warning)
        ready([warning] if warning else [])

    def _start_lane(self) -> None:
        """Take the device from pyfuse3 and leave it one end of a socket pair instead (DESIGN.md section 4)."""
        session_fd = _session_fd()
        device_fd = os.dup(session_fd)
        os.set_blocking(device_fd, True)
        self._relay = Relay(device_fd)
        self._relay.start(session_fd)
        self._lane = Lane(device_fd, self._store, self._door, self._relay, self._operations.writers_of)
        token = trio.lowlevel.current_trio_token()

        def end_names() -> None:
            with contextlib.suppress(trio.RunFinishedError, trio.Cancelled):
                token.run_sync_soon(pyfuse3.terminate)

        self._lane.start(ended=end_names)

    async def _hello(self, request: dict[str, Any]) -> dict[str, Any]:
        return {"daemon_pid": os.getpid()}

    async def _status(self, request: dict[str, Any]) -> dict[str, Any]:
        counted = census.Census()
        await self._operations.take(census.steps(self._store, counted))
        return {
            "report": describe(counted, self._names.files()),
            "daemon_memory": _own_memory_bytes(),
            "daemon_pid": os.getpid(),
            "pool_limit": self._store.pool.limit_bytes,
            "stalled": self._operations.stalled + (self._lane.stalled if self._lane else 0),
            "corrupt_reads": self._lane.corrupt_reads if self._lane else 0,
        }

    async def _watch_signals(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
            async for number in signals:
                log.info("signal %d: unmounting", number)
                done = await trio.to_thread.run_sync(self._unmount, abandon_on_cancel=True)
                if not done:
                    found = mounts.users(mounts.find(Path(self._options.mountpoint)))
                    log.error(
                        "%s stays mounted, because it is in use by %s; end these first",
                        self._options.mountpoint,
                        mounts.describe_users(found) or "somebody",
                    )

    def _unmount(self, *, lazy: bool = False) -> bool:
        """Unmount in another process, so that none of our threads ever waits for ourselves in the kernel."""
        command = ["umount"] if os.geteuid() == 0 else ["fusermount3", "-u", "-q"]
        if lazy:
            command.append("-l" if os.geteuid() == 0 else "-z")
        result = subprocess.run(
            [*command, "--", self._options.mountpoint], capture_output=True, timeout=UNMOUNT_S, check=False
        )
        return result.returncode == 0

    def _state_free_bytes(self) -> int:
        space = os.statvfs(self._options.state)
        return space.f_bavail * space.f_frsize


def _session_fd() -> int:
    """The descriptor of /dev/fuse that libfuse opened last."""
    found = [
        int(entry.name)
        for entry in Path("/proc/self/fd").iterdir()
        if entry.is_symlink() and str(entry.readlink()) == "/dev/fuse"
    ]
    if not found:
        raise MountError("libfuse holds no descriptor of /dev/fuse; mount with --no-lane and report this")
    return max(found)


def _reconcile(store: Store, names: Names, state: Path) -> None:
    """A killed daemon may have left a volume without a name, also one that lost its name while it was open."""
    for inode in names.nameless():
        names.forget(inode)
    files = names.files()
    for volume in list(store.volumes.values()):
        if volume.number not in files:
            run(store.delete_steps(volume))
    missing = [path for inode, path in files.items() if inode not in store.volumes and not path.startswith("(")]
    if missing:
        raise StateError(
            f"the state in {state} is damaged: the map of {missing[0]!r} is missing; "
            "restore the directory, or mount with an empty one"
        )


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
        raise StateError(
            f"the state in {state} is damaged: {path.name}: {error}; restore the directory, or mount with an empty one"
        ) from None


def _own_memory_bytes() -> int:
    """Memory of this process beside the state's files: its heap, and its part of programs and libraries."""
    try:
        text = Path("/proc/self/smaps_rollup").read_text()
    except OSError as error:
        raise OutOfRoom(f"/proc/self/smaps_rollup cannot be read: {error.strerror}") from None
    figures = dict(line.split(":", 1) for line in text.splitlines()[1:] if ":" in line)
    return sum(int(figures[key].split()[0]) << 10 for key in ("Pss_Anon", "Pss_File") if key in figures)
