"""Taking a snapshot of a VM that runs (DESIGN.md 2.9).

Most dirty pages are written back while it runs. Then it is stopped; QEMU saves its devices, the rest is written back,
the memory is cloned inside the store, and it goes on: tens of milliseconds. Whatever fails, it goes on; should we be
killed, the guard sees to that.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from blockstore.daemon import control
from blockstore.daemon.mounts import Mount
from blockstore.errors import BlockstoreError, MountError, OutOfRoom, VmError
from blockstore.vm import snapshot_file
from blockstore.vm.disk_arguments import for_others
from blockstore.vm.disks import Moving
from blockstore.vm.file_work import FileWork
from blockstore.vm.guard import RESCUE_S, Command, Guard
from blockstore.vm.monitor import Monitor, Refused
from blockstore.vm.overlays import Base
from blockstore.vm.running import UNDER_WAY, Ability, Running, ability, without_memory
from blockstore.vm.snapshot_file import Facts

FLUSH_S: Final = 120.0
"""Writing back while the VM runs: 16 GiB at 150 MB/s."""

STOPPED_FLUSH_S: Final = 10.0
"""Writing back the rest while it is stopped: what was dirtied in the milliseconds since."""

CLONE_S: Final = 10.0
"""Takes 50 ms for 4 GiB."""

APPEND_S: Final = 30.0
"""The device state, half a megabyte, into the store; a graphics card has more."""

SAVE_S: Final = 30.0
"""Devices take 30 ms to be saved, the memory of a graphics card longer."""

BANDWIDTH: Final = 1 << 40
"""Bytes a second; QEMU sends no faster than a network by default."""

_RETRY_S: Final = 0.02

_DESCRIPTOR: Final = "blockstore-device-state"


class Taken(NamedTuple):
    """How it went: `stopped_s` is how long the VM stood still, of which `flush_s` was spent on its dirty pages."""

    stopped_s: float
    flush_s: float
    clone_s: float
    save_s: float


def take(mount: Mount, vm: Running, descriptor: int, path: Path, moving: Moving | None = None) -> Taken:
    """Fill the file of a snapshot, `descriptor` at `path`, with the VM as it is now, and with its disks if they are
    `moving`. Raises a sentence, and then the VM goes on as well."""
    tail = os.memfd_create(_DESCRIPTOR)
    with contextlib.ExitStack() as undo:
        undo.callback(os.close, tail)
        taken, facts, work = _taken(mount, vm, descriptor, tail, path, moving, undo)
        snapshot_file.complete(tail, vm.memory_bytes, facts)
        work.append(APPEND_S)
    return taken


def for_forks(
    mount: Mount, vm: Running, descriptor: int, path: Path, moving: Moving | None = None
) -> tuple[int, Facts]:
    """As `take`, but nothing comes behind the memory: the device state stays in a file of its own, whose descriptor is
    the caller's. That is all that VMs need which are started at once."""
    tail = os.memfd_create(_DESCRIPTOR)
    try:
        with contextlib.ExitStack() as undo:
            return tail, _taken(mount, vm, descriptor, tail, path, moving, undo)[1]
    except BaseException:
        os.close(tail)
        raise


def _taken(
    mount: Mount, vm: Running, descriptor: int, tail: int, path: Path, moving: Moving | None, undo: contextlib.ExitStack
) -> tuple[Taken, Facts, FileWork]:
    """The memory goes into `descriptor`, the device state into `tail`."""
    _check_room(mount)
    monitor = undo.enter_context(Monitor(vm.socket, vm.name))
    able = ability(monitor, vm)
    try:
        source = os.open(vm.path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise MountError(f"{vm.path} cannot be read: {error.strerror}") from None
    undo.callback(os.close, source)
    work = FileWork(source, descriptor, tail, vm.memory_bytes)
    undo.callback(work.close)
    work.flush(FLUSH_S)
    monitor.pass_descriptor(tail, _DESCRIPTOR)
    taken, bases = _stopped(monitor, vm, able, work, path, moving)
    arguments, now = for_others(vm, moving.disks if moving else []), time.time()
    facts = Facts(vm.name, now, able.qemu, able.machine, vm.program, arguments, vm.folder, able.backend, bases)
    return taken, facts, work


def _stopped(
    monitor: Monitor, vm: Running, able: Ability, work: FileWork, path: Path, moving: Moving | None
) -> tuple[Taken, tuple[Base, ...]]:
    with _standing_still(monitor, vm, able, path, moving) as stopped:
        times = [time.perf_counter()]
        bases = moving.move(monitor) if moving else ()
        monitor.execute("migrate", {"uri": f"fd:{_DESCRIPTOR}"})
        monitor.wait_for_migration(SAVE_S)
        times.append(time.perf_counter())
        work.flush(STOPPED_FLUSH_S)
        times.append(time.perf_counter())
        work.clone(CLONE_S)
        times.append(time.perf_counter())
    save_s, flush_s, clone_s = (after - before for before, after in itertools.pairwise(times))
    return Taken(stopped(), flush_s, clone_s, save_s), bases


@contextlib.contextmanager
def _standing_still(monitor: Monitor, vm: Running, able: Ability, path: Path, moving: Moving | None) -> Iterator[Any]:
    """The VM is stopped inside, and afterwards as it was before; gives how long it stood still."""
    afterwards: list[Command] = [("cont", {})] if able.is_running else []
    afterwards += _settings(able.ignored_shared, able.max_bandwidth)
    guard = Guard(monitor.connection.fileno(), path, afterwards, moving.targets if moving else ())
    began = ended = time.perf_counter()
    try:
        for command, arguments in _settings(True, BANDWIDTH):
            monitor.execute(command, arguments)
        if moving:
            moving.prepare(guard.writer)
        began = time.perf_counter()
        monitor.execute("stop")
        yield lambda: ended - began
    except BaseException as error:
        _go_on(monitor, vm, afterwards, guard, error)
        if moving:
            moving.remove(monitor)
        raise
    ended = _go_on(monitor, vm, afterwards, guard, None)


def _go_on(
    monitor: Monitor, vm: Running, afterwards: list[Command], guard: Guard, error: BaseException | None
) -> float:
    """Let the VM go on, after `error` or when all went well, and say when it did."""
    try:
        if error is not None and monitor.execute("query-migrate").get("status") in UNDER_WAY:
            monitor.execute("migrate_cancel")
        _patiently(monitor, afterwards[0])
        went_on = time.perf_counter()
        for each in afterwards[1:]:
            _patiently(monitor, each)
    except VmError as failure:
        guard.take_over()
        why = error if isinstance(error, BlockstoreError) else failure
        raise VmError(
            f"{why}; if {vm.name} still runs it may be stopped, and is told to go on as soon as it answers, for "
            f"{RESCUE_S:.0f} s; after that: cont, at {vm.socket}"
        ) from None
    except BaseException:
        guard.take_over()
        raise
    guard.stand_down()
    return went_on


def _patiently(monitor: Monitor, command: Command) -> None:
    """QEMU refuses while a cancelled migration ends."""
    deadline = time.monotonic() + SAVE_S
    while True:
        try:
            monitor.execute(*command)
            return
        except Refused:
            if time.monotonic() > deadline or monitor.execute("query-migrate").get("status") not in UNDER_WAY:
                raise
            time.sleep(_RETRY_S)


def _settings(ignore_shared: bool, max_bandwidth: int) -> list[Command]:
    return [
        without_memory(ignore_shared),
        ("migrate-set-parameters", {"max-bandwidth": max_bandwidth}),
    ]


def _check_room(mount: Mount) -> None:
    """Nothing is begun while writes wait for room, for ours would too."""
    if control.ask(mount.state, {"do": "hello"}).get("stalled"):
        raise OutOfRoom(
            f"{mount.path} is out of room, and a snapshot needs some; delete something, or raise the limit with "
            "`blockstore set --pool-limit`"
        )
