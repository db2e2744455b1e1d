"""Which blockstore mounts there are, and which processes use them. Reads /proc only, never a mount.

A mount's source, as /proc/self/mountinfo and df(1) show it, is `blockstore:STATE`, with the path of the state
directory percent-encoded; that is how the command line finds the daemon's control socket.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple
from urllib.parse import quote, unquote

from blockstore.errors import MountError

FILE_SYSTEM_TYPE: Final = "fuse.blockstore"
_SOURCE_PREFIX: Final = "blockstore:"

READ_AHEAD_BYTES: Final = 128 << 10
"""What the kernel may read around a page that a VM faults, and its own default. While a VM idles the controller makes
it less for that VM (vm/memory/read_ahead.py)."""

VARIABLE: Final = "BLOCKSTORE_MOUNT"
"""Names the mount, in the environment, for commands that are not given one."""

_LINKS: Final = 40
"""So many symbolic links are followed from one path, as the kernel does (path_resolution(7))."""

CONTROLLER_MODULE: Final = "blockstore.vm.control.controller"
"""Beside each daemon (companion.py): it uses the mount now and then, on behalf of nobody."""

_CONTROLLERS: Final = (CONTROLLER_MODULE, "blockstore.vm.memory.controller")
"""What runs beside a daemon of this version, and beside one of an earlier version that was not reloaded yet."""


class Mount(NamedTuple):
    """One line of mountinfo; `device` is MAJOR:MINOR."""

    path: Path
    device: str
    state: Path

    def has(self, found: os.stat_result, inode: int) -> bool:
        """Is this the mount's file with that number, and no other one that may have its name or number?"""
        return f"{os.major(found.st_dev)}:{os.minor(found.st_dev)}" == self.device and found.st_ino == inode


class Mapping(NamedTuple):
    """A range of a process's address space that shows a file of a mount, from `offset` of the file on. What is written
    to it comes to the file if it `is_shared`."""

    pid: int
    start: int
    length: int
    offset: int
    inode: int
    path: str
    is_shared: bool
    is_writable: bool


class User(NamedTuple):
    """A process that keeps a mount busy."""

    pid: int
    command: str
    paths: frozenset[str]


def source_for(state: Path) -> str:
    """The source of a mount with this state directory."""
    return _SOURCE_PREFIX + quote(os.fsencode(state))


def all_mounts() -> list[Mount]:
    """All blockstore mounts in this mount namespace, in the order in which they were made."""
    mounts = []
    for line in mount_lines():
        if line.kind == FILE_SYSTEM_TYPE and line.source.startswith(_SOURCE_PREFIX):
            state = Path(os.fsdecode(unquote(line.source[len(_SOURCE_PREFIX) :], errors="surrogateescape")))
            mounts.append(Mount(line.path, line.device, state))
    return mounts


def served_from(state: Path) -> list[Mount]:
    """The mounts that are served from this state directory, whatever links lead to it."""
    place = os.path.realpath(state)
    return [mount for mount in all_mounts() if os.path.realpath(mount.state) == place]


class MountLine(NamedTuple):
    """Of any file system: `root` is the directory of it that is mounted at `path`. `number` is the mount's own, unique
    in all name spaces, `parent` that of the mount that it is mounted on; `groups` are its peer groups by relation
    (shared, master, propagate_from)."""

    number: int
    parent: int
    groups: dict[str, int]
    device: str
    root: str
    path: Path
    kind: str
    source: str
    options: list[str]


def mount_lines(mountinfo: Path = Path("/proc/self/mountinfo")) -> Iterator[MountLine]:
    """Those of the file, in which only a newline ends a line (proc_pid_mountinfo(5)). Raises OSError."""
    for line in mountinfo.read_text(errors="surrogateescape").split("\n")[:-1]:
        fields = line.split(" ")
        dash = fields.index("-")
        kind, source, options = fields[dash + 1 : dash + 4]
        number, parent, device, root, path = int(fields[0]), int(fields[1]), fields[2], *map(_unescape, fields[3:5])
        groups = {name: int(group) for name, _, group in (each.partition(":") for each in fields[6:dash]) if group}
        yield MountLine(number, parent, groups, device, root, Path(path), kind, _unescape(source), options.split(","))


def find(path: Path | None) -> Mount:
    """The mount at `path`; if no path is given, the one that the environment names, or else the only one there is.
    Raises MountError."""
    mounts = all_mounts()
    if path is None and (named := os.environ.get(VARIABLE)):
        if (found := lookup(Path(named))) is None:
            raise MountError(f"{VARIABLE} is {named}, which is not a blockstore mount; unset it, or mount there")
        return found
    if path is None:
        if len(mounts) == 1:
            return mounts[0]
        if not mounts:
            raise MountError("there is no blockstore mount; make one with: blockstore mount DIRECTORY")
        names = ", ".join(str(mount.path) for mount in mounts)
        raise MountError(
            f"there are several blockstore mounts ({names}); say which one (as the argument, or with --mount)"
        )
    found = lookup(path)
    if found is None:
        names = ", ".join(str(mount.path) for mount in all_mounts())
        raise MountError(f"{path} is not a blockstore mount; " + (f"there is {names}" if names else "there is none"))
    return found


def lookup(path: Path) -> Mount | None:
    """Returns the mount at `path`, or where the symbolic links there lead to; None if there is none. Asks no mount:
    one that does not answer would have the caller wait for ever."""
    mounts = all_mounts()
    wanted = Path(os.path.abspath(path))
    for _ in range(_LINKS):
        # To resolve the last part could ask the mount itself: before it is compared, only its parent is resolved.
        parent = Path(os.path.realpath(wanted.parent))
        for candidate in (wanted, parent / wanted.name):
            for mount in reversed(mounts):
                if mount.path == candidate:
                    return mount
        try:
            wanted = Path(os.path.abspath(parent / wanted.readlink()))
        except OSError:  # no link, or nothing is there
            return None
    return None


def served_by(state: Path, path: Path) -> Mount | None:
    """The mount with this state at `path`: it may be detached, and another one in its place."""
    found = lookup(path)
    return found if found is not None and found.state == state else None


def mappings(mount: Mount) -> Iterator[Mapping]:
    """All mappings of the mount's files in all processes that we may look into."""
    for process in processes():
        try:
            yield from mappings_of(int(process.name), mount)
        except (OSError, ValueError):
            continue  # gone meanwhile, or not ours to see


def mappings_of(pid: int, mount: Mount) -> Iterator[Mapping]:
    """Those of one process. Raises OSError when it has gone, or is not ours to see."""
    major, minor = mount.device.split(":")
    device = f"{int(major):02x}:{int(minor):02x}".encode()
    with Path(f"/proc/{pid}/maps").open("rb") as lines:
        for line in lines:
            if device not in line:  # most of all lines
                continue
            fields = line.split(None, 5)
            if fields[3] == device and len(fields) == 6:
                start, end = (int(part, 16) for part in fields[0].split(b"-"))
                path = os.fsdecode(fields[5].rstrip(b"\n"))
                is_shared = fields[1].endswith(b"s")
                is_writable = fields[1][1:2] == b"w"
                yield Mapping(pid, start, end - start, int(fields[2], 16), int(fields[4]), path, is_shared, is_writable)


def users(mount: Mount) -> list[User]:
    """The processes that have files of the mount mapped or open, or stand in it; the controllers aside."""
    paths: dict[int, set[str]] = {}
    for mapping in mappings(mount):
        paths.setdefault(mapping.pid, set()).add(mapping.path)
    for pid, _, link in _links_into(mount):
        paths.setdefault(pid, set()).add(link)
    return [
        User(pid, command_of(pid), frozenset(found)) for pid, found in sorted(paths.items()) if not _is_controller(pid)
    ]


def describe_users(found: list[User]) -> str:
    """`qemu-system-x86 (process 12, /mnt/vm1), ...` for a message; at most five."""
    texts = [f"{user.command} (process {user.pid}, {min(user.paths)})" for user in found[:5]]
    more = f" and {len(found) - 5} more" if len(found) > 5 else ""
    return ", ".join(texts) + more


def open_files(mount: Mount) -> Iterator[tuple[int, int]]:
    """All files of the mount that processes have open, nameless ones too: the process and its descriptor."""
    for pid, name, _ in _links_into(mount):
        if name.isdigit():
            yield pid, int(name)


def _links_into(mount: Mount) -> Iterator[tuple[int, str, str]]:
    """A process, what of it (cwd, root, or the number of a descriptor), and the path in the mount that it leads to."""
    prefix = str(mount.path)
    numbers = {line.number for line in mount_lines() if line.device == mount.device}
    for process in processes():
        for name, link in _links(process):
            if link is None:
                if _mount_number(process, name) in numbers:
                    yield int(process.name), name, f"{prefix}/... (a path that is longer than PATH_MAX)"
            elif link == prefix or link.startswith(prefix + "/"):
                yield int(process.name), name, link


def processes() -> Iterator[Path]:
    """Their directories in /proc."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            yield entry


def _links(process: Path) -> Iterator[tuple[str, str | None]]:
    """With None for a path that is too long for readlink(2)."""
    try:
        descriptors = os.listdir(process / "fd")
    except OSError:
        descriptors = []
    for name in ("cwd", "root", *descriptors):
        try:
            yield name, str((process / _place(name)).readlink())
        except OSError as error:
            if error.errno == errno.ENAMETOOLONG:
                yield name, None


def _place(link: str) -> str:
    return f"fd/{link}" if link.isdigit() else link


def _mount_number(process: Path, link: str) -> int | None:
    """That of the mount which the link leads to (proc_pid_fdinfo(5)). O_PATH asks no file system."""
    try:
        descriptor = os.open(process / _place(link), os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        found = re.search(r"^mnt_id:\s*(\d+)$", Path(f"/proc/self/fdinfo/{descriptor}").read_text(), re.MULTILINE)
        return int(found[1]) if found else None
    finally:
        os.close(descriptor)


def command_of(pid: int) -> str:
    """The name of its program."""
    try:
        return Path(f"/proc/{pid}/comm").read_text(errors="replace").strip()
    except OSError:
        return "a process"


def _is_controller(pid: int) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False
    return any(each.encode() in words for each in _CONTROLLERS)


def _unescape(field: str) -> str:
    r"""Undo the \040 of mountinfo."""
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)
