"""Taking a snapshot of a VM, which is afterwards as it was before (docs/snapshots.md).

Most dirty pages are written back while it runs. Then it is stopped; QEMU saves its devices, the rest is written back,
the memory is cloned inside the store, and it goes on: tens of milliseconds. Whatever fails, it goes on; should we be
killed, the guard sees to that. One that stands still already, for whatever reason, goes on standing still.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from blockstore.daemon.control import client
from blockstore.daemon.host.mounts import Mount
from blockstore.errors import BlockstoreError, MountError, OutOfRoom, VmError
from blockstore.vm.file_work import FileWork
from blockstore.vm.memory import write_errors
from blockstore.vm.open_files import open_volume
from blockstore.vm.qemu.disk_arguments import for_others
from blockstore.vm.qemu.monitor import LET_GO_ON, STOPPED_BY_ITSELF, Command, Monitor
from blockstore.vm.qemu.running import Ability, Running, ability, is_to_go_on, without_memory
from blockstore.vm.snapshot import snapshot_file
from blockstore.vm.snapshot.device_state import DeviceState
from blockstore.vm.snapshot.disks import Moving
from blockstore.vm.snapshot.guard import RESCUE_S, Guard
from blockstore.vm.snapshot.overlays import Base
from blockstore.vm.snapshot.snapshot_file import Facts

FLUSH_S: Final = 120.0
"""Writing back while the VM runs: 16 GiB at 150 MB/s."""

STOPPED_FLUSH_S: Final = 10.0
"""Writing back the rest while it is stopped: what was dirtied in the milliseconds since."""

CLONE_S: Final = 10.0
"""Takes 50 ms for 4 GiB."""

APPEND_S: Final = 30.0
"""The device state, half a megabyte, into the store; a graphics card has more."""

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
        source = open_volume(mount, vm.name, vm.volume)
    except OSError as error:
        raise MountError(f"{vm.path} cannot be read: {error.strerror}") from None
    undo.callback(os.close, source)
    work = FileWork(source, descriptor, tail, vm.memory_bytes)
    undo.callback(work.close)
    work.flush(FLUSH_S)
    state = DeviceState()
    undo.callback(state.close)
    taken, bases = _stopped(monitor, vm, able, state, work, path, moving)
    state.copy(tail)
    write_errors.tell(mount.state, vm.name, work.rewritten_bytes)
    arguments, now = for_others(vm, moving.disks if moving else []), time.time()
    facts = Facts(vm.name, now, able.qemu, able.machine, vm.program, arguments, vm.folder, able.backend, bases)
    return taken, facts, work


def _stopped(
    monitor: Monitor,
    vm: Running,
    able: Ability,
    state: DeviceState,
    work: FileWork,
    path: Path,
    moving: Moving | None,
) -> tuple[Taken, tuple[Base, ...]]:
    with _standing_still(monitor, vm, able, state, path, moving) as stopped:
        times = [time.perf_counter()]
        state.save(monitor)
        times.append(time.perf_counter())
        work.flush(STOPPED_FLUSH_S)
        times.append(time.perf_counter())
        work.clone(CLONE_S)
        times.append(time.perf_counter())
        bases = moving.move(monitor) if moving else ()  # last: what fails before leaves the disks where they are
        if monitor.execute("query-status")["running"]:
            raise VmError(f"{vm.name} was told to go on by another program while it was saved; try again")
    save_s, flush_s, clone_s = (after - before for before, after in itertools.pairwise(times))
    return Taken(stopped(), flush_s, clone_s, save_s), bases


@contextlib.contextmanager
def _standing_still(
    monitor: Monitor, vm: Running, able: Ability, state: DeviceState, path: Path, moving: Moving | None
) -> Iterator[Any]:
    """The VM is stopped inside, and afterwards as it was before; gives how long it stood still."""
    afterwards: list[Command] = [LET_GO_ON] if is_to_go_on(monitor, vm) else []
    afterwards.append(without_memory(able.ignored_shared))
    targets = moving.targets if moving else ()
    guard = Guard(monitor.connection.fileno(), path, afterwards, state.leavings, targets)
    began = ended = time.perf_counter()
    try:
        monitor.execute(*without_memory(True))
        state.prepare(monitor)
        if moving:
            moving.prepare(guard.writer)
        began = time.perf_counter()
        monitor.execute("stop")
        if LET_GO_ON in afterwards and monitor.execute("query-status")["status"] in STOPPED_BY_ITSELF:
            afterwards.remove(LET_GO_ON)  # it ran when it was looked at
        yield lambda: ended - began
    except BaseException as error:
        _go_on(monitor, vm, afterwards, state, guard, error)
        if moving:
            moving.remove(monitor)
        raise
    ended = _go_on(monitor, vm, afterwards, state, guard, None)


def _go_on(
    monitor: Monitor,
    vm: Running,
    afterwards: list[Command],
    state: DeviceState,
    guard: Guard,
    error: BaseException | None,
) -> float:
    """Let the VM go on, after `error` or when all went well, and say when it did."""
    try:
        monitor.execute(*afterwards[0])
        went_on = time.perf_counter()
        for each in afterwards[1:]:
            monitor.execute(*each)
        state.leave(monitor)
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


def _check_room(mount: Mount) -> None:
    """Nothing is begun while writes wait for room, for ours would too, or while a part of the VM's memory may be in the
    page cache alone without being dirty."""
    write_errors.await_look(mount.state)
    if client.ask(mount.state, {"do": "hello"}).get("stalled"):
        raise OutOfRoom(
            f"{mount.path} is out of room, and a snapshot needs some; delete something, or raise the limit with "
            "`blockstore set --pool-limit`"
        )
