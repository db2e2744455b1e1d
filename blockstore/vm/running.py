"""A VM that runs, as a snapshot needs it: its file, its QEMU, how that is reached, and whether it can be saved."""

from __future__ import annotations

import os
import socket
import struct
from pathlib import Path
from typing import Any, Final, NamedTuple

from blockstore.daemon import mounts
from blockstore.daemon.mounts import Mount
from blockstore.errors import InputError, MountError, VmError
from blockstore.vm import qmp_sockets
from blockstore.vm.monitor import Monitor, connect

IGNORE_SHARED: Final = "x-ignore-shared"
"""Leaves shared memory out of the device state (DESIGN.md 2.9)."""

UNDER_WAY: Final = ("setup", "active", "device", "pre-switchover", "cancelling")
"""What `query-migrate` says of a migration that has not come to its end."""


class Running(NamedTuple):
    """`name` is that of its memory file below the mount; `socket` where its QMP is."""

    name: str
    path: Path
    volume: int
    memory_bytes: int
    pid: int
    socket: Path
    command: list[str]
    program: str
    folder: str


class Ability(NamedTuple):
    """What QEMU has told, and how it was before we changed anything."""

    qemu: str
    machine: str
    backend: str
    is_running: bool
    ignored_shared: bool
    max_bandwidth: int


def find(mount: Mount, name: str, qmp: Path | None) -> Running:
    """The VM whose memory is this file; `qmp` is a socket of it, for a VM that we have not started. Raises a
    sentence."""
    path = mount.path / name
    try:
        found = path.lstat()
    except OSError as error:
        raise InputError(
            f"{mount.path} has no file {name!r}: {error.strerror}; `blockstore status {mount.path}` lists them, as vm1 "
            "or blue/vm1"
        ) from None
    mapped: dict[int, int] = {}
    for mapping in mounts.mappings(mount):
        if mapping.inode == found.st_ino and mapping.is_shared:
            mapped[mapping.pid] = mapped.get(mapping.pid, 0) + mapping.length
    mapped = {pid: size for pid, size in mapped.items() if size >= found.st_size}
    if qmp is None:
        pid = _only(mapped, name)
        qmp = qmp_sockets.path_of(mount.state, qmp_sockets.QMP, found.st_ino)
        if not qmp.exists():
            raise InputError(f"{name} was not started by `blockstore run`; say where its QMP socket is: --qmp PATH")
    else:
        pid = _listener(qmp.absolute(), name)
        if pid not in mapped:
            raise InputError(
                f"the process at {qmp} ({pid}) has no memory on the store that is {path}: is it another VM, or was it "
                "started without share=on?"
            )
    command, program, folder = _command(pid)
    return Running(name, path, found.st_ino, found.st_size, pid, qmp.absolute(), command, program, folder)


def ability(monitor: Monitor, vm: Running) -> Ability:
    """Can it be saved without its memory? Raises InputError, VmError."""
    capabilities = {each["capability"]: each["state"] for each in monitor.execute("query-migrate-capabilities")}
    if IGNORE_SHARED not in capabilities:
        raise VmError(f"the QEMU of {vm.name} has no {IGNORE_SHARED}; QEMU 4.0 or newer has it")
    backends: list[dict[str, Any]] = monitor.execute("query-memdev")
    others = [each for each in backends if not each.get("share") or each["size"] != vm.memory_bytes]
    if others or len(backends) != 1:
        words = ", ".join(f"{each.get('id', '?')} ({each['size'] >> 20} MiB)" for each in others or backends)
        raise InputError(
            f"{vm.name} has memory that is not on the store: {words or 'all of it'}; it cannot be snapshotted"
        )
    if monitor.execute("query-migrate").get("status") in UNDER_WAY:
        raise VmError(f"{vm.name} is being migrated or saved by somebody else; try again when that is done")
    version = monitor.execute("query-version")["qemu"]
    machine = next((each["name"] for each in monitor.execute("query-machines") if each.get("is-current")), "") or str(
        monitor.execute("qom-get", {"path": "/machine", "property": "type"})
    )
    return Ability(
        ".".join(str(version[part]) for part in ("major", "minor", "micro")),
        machine.removesuffix("-machine"),
        str(backends[0]["id"]),
        monitor.execute("query-status")["running"],
        capabilities[IGNORE_SHARED],
        monitor.execute("query-migrate-parameters").get("max-bandwidth", 0),
    )


def _only(mapped: dict[int, int], name: str) -> int:
    if not mapped:
        raise InputError(f"no VM runs on {name}; start it with `blockstore run`")
    qemus = [pid for pid in mapped if b"qemu" in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]]
    found = qemus or list(mapped)
    if len(found) > 1:
        raise InputError(f"several processes have the memory of {name} mapped: {', '.join(map(str, found))}")
    return found[0]


def _listener(path: Path, name: str) -> int:
    """The process that listens at a socket (SO_PEERCRED)."""
    connection = connect(path, name)
    with connection:
        size = struct.calcsize("3i")
        pid, _, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))
        return int(pid)


def _command(pid: int) -> tuple[list[str], str, str]:
    """Its arguments, its program, the folder that it runs in."""
    place = Path(f"/proc/{pid}")
    try:
        words = [os.fsdecode(word) for word in (place / "cmdline").read_bytes().split(b"\0")[:-1]]
        program = str((place / "exe").readlink())
        return words[1:], program.removesuffix(" (deleted)"), str((place / "cwd").readlink())
    except (OSError, IndexError):
        raise MountError(f"process {pid} has ended") from None
