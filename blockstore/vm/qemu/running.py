"""A VM that runs, as a snapshot needs it: its file, its QEMU, how that is reached, and whether it can be saved."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from blockstore.daemon.host import mounts, process_stat
from blockstore.daemon.host.mounts import Mount
from blockstore.errors import InputError, MountError, VmError
from blockstore.vm.open_files import folder_of
from blockstore.vm.qemu import qmp_sockets
from blockstore.vm.snapshot import snapshot_file

if TYPE_CHECKING:  # asyncio, which a fork loads while QEMU starts
    from blockstore.vm.qemu.monitor import Monitor

IGNORE_SHARED: Final = "x-ignore-shared"
"""Leaves shared memory out of the device state (docs/decisions.md, "Devices without memory")."""

UNDER_WAY: Final = ("setup", "active", "device", "pre-switchover", "cancelling")
"""What `query-migrate` says of a migration that has not come to its end."""

SNAPSHOT_SAVE: Final = "snapshot-save"
"""Saves the devices, and leaves the VM its disks (device_state.py)."""

_NOTHING_TO_SAVE: Final = {
    "inmigrate": "waits for its own device state; try again when it has that",
    "postmigrate": (
        "has given its disks away at the end of a migration (postmigrate), as after a snapshot by an older blockstore; "
        "if no other process has written to them since, let it go on: cont, at {socket}; if one has, end it"
    ),
    "suspended": "sleeps (suspended), and may wake up while it is saved; wake it up first: system_wakeup, at {socket}",
    "finish-migrate": "is being migrated; try again when that is done",
    "save-vm": "is being saved by another program; try again when that is done",
    "restore-vm": "is being loaded by another program; try again when that is done",
    "colo": "is a copy of another VM (colo), which can be snapshotted itself",
    "shutdown": "has shut down, and could not go on from a snapshot; reset it first: system_reset, at {socket}",
    "internal-error": "has failed, and could not go on from a snapshot; reset it first: system_reset, at {socket}",
}
"""What `query-status` may say, and why a VM is refused then. It is saved in all other states, and stays in them."""


def without_memory(is_on: bool) -> tuple[str, dict[str, Any]]:
    """The command that makes QEMU save and load its devices without shared memory, or with it again."""
    return "migrate-set-capabilities", {"capabilities": [{"capability": IGNORE_SHARED, "state": is_on}]}


class Running(NamedTuple):
    """`name` is that of its memory file below the mount; `socket` where its QMP is, which is `own` if `run` made it."""

    name: str
    path: Path
    volume: int
    memory_bytes: int
    pid: int
    socket: Path
    is_own: bool
    command: list[str]
    program: str
    folder: str


class Ability(NamedTuple):
    """What QEMU has told, and how it was before we changed anything."""

    qemu: str
    machine: str
    backend: str
    ignored_shared: bool


def find(mount: Mount, name: str, qmp: Path | None) -> Running:
    """The VM whose memory is this file; `qmp` is a socket of it, for a VM that we have not started. Raises a
    sentence."""
    try:
        with folder_of(mount, name) as (folder, last):
            found = os.stat(last, dir_fd=folder, follow_symlinks=False)
    except OSError as error:
        if snapshot_file.is_there(snapshot_file.place_named(mount, name)):
            raise InputError(
                f"{name} is a snapshot, not a VM; start a VM from it: blockstore restore {name} --as VM"
            ) from None
        raise InputError(
            f"{mount.path} has no file '{name}': {error.strerror}; `blockstore status {mount.path}` lists them, as vm1 "
            "or blue/vm1"
        ) from None
    pid = _process(mount, name, found)
    is_own = qmp is None
    if qmp is None:
        qmp = qmp_sockets.path_of(mount.state, qmp_sockets.QMP, found.st_ino)
        if not qmp.exists():
            raise InputError(f"{name} was not started by `blockstore run`; say where its QMP socket is: --qmp PATH")
    command, program, home = _command(pid)
    path = mount.path / name
    return Running(name, path, found.st_ino, found.st_size, pid, qmp.absolute(), is_own, command, program, home)


def ability(monitor: Monitor, vm: Running) -> Ability:
    """Can it be saved without its memory? Raises InputError, VmError."""
    capabilities = {each["capability"]: each["state"] for each in monitor.execute("query-migrate-capabilities")}
    if IGNORE_SHARED not in capabilities:
        raise VmError(f"the QEMU of {vm.name} has no {IGNORE_SHARED}; QEMU 4.0 or newer has it")
    if SNAPSHOT_SAVE not in [each["name"] for each in monitor.execute("query-commands")]:
        raise VmError(f"the QEMU of {vm.name} has no {SNAPSHOT_SAVE}; QEMU 6.0 or newer has it")
    backends: list[dict[str, Any]] = monitor.execute("query-memdev")
    others = [each for each in backends if not each.get("share") or each["size"] != vm.memory_bytes]
    if others or len(backends) != 1:
        words = ", ".join(f"{each.get('id', '?')} ({each['size'] >> 20} MiB)" for each in others or backends)
        raise InputError(
            f"{vm.name} has memory that is not on the store: {words or 'all of it'}; it cannot be snapshotted"
        )
    if not vm.is_own:
        _check_is_its_own(monitor, vm, str(backends[0]["id"]))
    migration = monitor.execute("query-migrate")
    if migration.get("status") in UNDER_WAY:
        raise VmError(f"{vm.name} is being migrated or saved by somebody else; try again when that is done")
    if reasons := migration.get("blocked-reasons"):
        words = ", ".join(str(each).rstrip(".") for each in reasons)
        raise VmError(f"{vm.name} has a device that QEMU cannot save; start it without that: {words}")
    is_to_go_on(monitor, vm)
    version = monitor.execute("query-version")["qemu"]
    machine = str(monitor.execute("qom-get", {"path": "/machine", "property": "type"}))
    return Ability(
        ".".join(str(version[part]) for part in ("major", "minor", "micro")),
        machine.removesuffix("-machine"),
        str(backends[0]["id"]),
        capabilities[IGNORE_SHARED],
    )


def is_to_go_on(monitor: Monitor, vm: Running) -> bool:
    """Is `cont` to follow a `stop`, for the VM to be as it is now? Raises VmError if it cannot be saved as it is."""
    status = str(monitor.execute("query-status")["status"])
    if status in _NOTHING_TO_SAVE:
        raise VmError(f"{vm.name} {_NOTHING_TO_SAVE[status].format(socket=vm.socket)}")
    return status == "running"


def _process(mount: Mount, name: str, file: os.stat_result) -> int:
    """The one that has all of the file mapped, and writes to it."""
    mapped: dict[int, int] = {}
    for mapping in mounts.mappings(mount):
        if mapping.inode == file.st_ino and mapping.is_shared:
            mapped[mapping.pid] = mapped.get(mapping.pid, 0) + mapping.length
    found = [pid for pid, size in mapped.items() if size >= file.st_size]
    if not found:
        raise InputError(f"no VM runs on {name}; start it with `blockstore run`, or with share=on")
    qemus = [pid for pid in found if b"qemu" in b"".join(process_stat.command(pid)[:1])]
    if len(qemus or found) > 1:
        raise InputError(f"several processes have the memory of {name} mapped: {', '.join(map(str, qemus or found))}")
    return (qemus or found)[0]


def _check_is_its_own(monitor: Monitor, vm: Running, backend: str) -> None:
    """Whose socket is it? The process that listens may be another one, which has given the socket to QEMU."""
    path = Path(str(monitor.execute("qom-get", {"path": f"/objects/{backend}", "property": "mem-path"})))
    try:
        same = path.stat().st_ino == vm.volume and path.stat().st_dev == vm.path.stat().st_dev
    except OSError:
        same = False
    if not same:
        raise InputError(
            f"the VM at {vm.socket} has its memory in {path}, not in {vm.path}; is it another VM's socket?"
        )


def _command(pid: int) -> tuple[list[str], str, str]:
    """Its arguments, its program, the folder that it runs in."""
    place = Path(f"/proc/{pid}")
    try:
        words = [os.fsdecode(word) for word in (place / "cmdline").read_bytes().split(b"\0")[:-1]]
        program = str((place / "exe").readlink())
        return words[1:], program.removesuffix(" (deleted)"), str((place / "cwd").readlink())
    except (OSError, IndexError):
        raise MountError(f"process {pid} has ended") from None
