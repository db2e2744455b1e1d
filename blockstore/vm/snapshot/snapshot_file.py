"""A snapshot is one file of the mount: the memory of a VM, behind it its device state, and what is known of both.

    memory | device state (QEMU's migration stream) | facts (JSON) | footer

It lies at the top of the VM's sharing domain, because only there its memory is the VM's blocks, and is called
`.NAME.snapshot`. Until it is whole it has another name (`partial_path`), so that one rename publishes it, and one
unlink deletes it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import re
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from blockstore.daemon.host.mounts import Mount
from blockstore.daemon.host.process_stat import start_time
from blockstore.daemon.namespace.snapshot_names import NAME, OWNER, PARTIAL, PREFIX, SUFFIX
from blockstore.errors import BusyError, InputError, MountError, OutOfRoom, StateError
from blockstore.vm.snapshot.overlays import Base, bases_of

MAXIMUM_DEVICE_BYTES: Final = 1 << 30
"""QEMU saves less than a megabyte, and the memory of the graphics card. More is a file that is none of ours."""

MAXIMUM_FACTS_BYTES: Final = 1 << 20

# magic 8s, version I, unused I, bytes of memory Q, of device state Q, of facts Q, sha256 of the last two 32s
_FOOTER: Final = struct.Struct(">8sIIQQQ32s")
_MAGIC: Final = b"bstsnap\n"
_VERSION: Final = 1

_RENAME_NOREPLACE: Final = 1
_AT_FDCWD: Final = -100
_libc: Final = ctypes.CDLL(None, use_errno=True)


class Facts(NamedTuple):
    """What is known of a snapshot; `arguments` are those that QEMU (`program`) is to be started with again, in the
    folder `folder`; `backend` is the id of its memory backend, by which the device state calls the memory."""

    vm: str
    taken_at: float
    qemu: str
    machine: str
    program: str
    arguments: list[str]
    folder: str
    backend: str
    disks: tuple[Base, ...] = ()
    """What the overlays of a new VM's disks are made over, if they are to have any: {disk1} in `arguments`."""


class Snapshot(NamedTuple):
    """One that is whole. `name` is its place below the mount: base, or blue/base."""

    name: str
    path: Path
    memory_bytes: int
    device_bytes: int
    facts: Facts

    def device_state(self) -> bytes:
        """QEMU's stream. Raises MountError, StateError."""
        with _reading(self.path) as descriptor:
            return _tail(descriptor, self.path)[1]


def check_name(name: str) -> None:
    """Raises InputError for what no snapshot can be called."""
    if not re.fullmatch(NAME, name):
        raise InputError(
            f"'{name}' cannot be the name of a snapshot; use up to 100 letters, digits and _ . @ + -, the first a "
            "letter or a digit"
        )


def name_within(domain: str, name: str, vm: str) -> str:
    """Returns what the snapshot `name` of the VM `vm` is called in its domain: it may be given with that, as it is
    listed. Raises InputError."""
    short = name.removeprefix(f"{domain}/") if domain else name
    if "/" in short:
        wanted = f"{domain}/{short.rsplit('/', 1)[-1]}" if domain else short.rsplit("/", 1)[-1]
        raise InputError(
            f"a snapshot of {vm} is in the sharing domain of that VM and cannot be {name}; call it {wanted}"
        )
    check_name(short)
    return short


def domain_of(name: str) -> str:
    """The top-level folder of a file of the mount, its sharing domain; empty for files at the top."""
    return name.split("/", 1)[0] if "/" in name else ""


def place_of(mount: Mount, domain: str, name: str) -> Path:
    """Where the snapshot `name` of a domain is, or would be. Raises InputError for a domain that leaves the mount."""
    if domain in (".", "..") or "/" in domain:
        raise InputError(f"'{domain}' is no sharing domain; these are the folders at the top of {mount.path}")
    return mount.path / domain / f"{PREFIX}{name}{SUFFIX}"


def place_named(mount: Mount, name: str) -> Path:
    """Returns where the snapshot of this name, its domain included, is or would be. Raises InputError."""
    return place_of(mount, domain_of(name), name.rsplit("/", 1)[-1])


def partial_path(mount: Mount, domain: str) -> Path:
    """For one that is being made by this process; told from those that a dead process has left."""
    pid = os.getpid()
    return mount.path / domain / f"{PREFIX}{pid}-{start_time(pid)}{PARTIAL}{os.urandom(4).hex()}"


@contextlib.contextmanager
def making(mount: Mount, domain: str) -> Iterator[tuple[Path, int]]:
    """A new file for a snapshot; it is gone afterwards, unless it was published. Raises MountError, OutOfRoom."""
    clear_leftovers(mount)
    path = partial_path(mount, domain)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise _cannot(path, "made", error) from None
    try:
        yield path, descriptor
    finally:
        os.close(descriptor)
        with contextlib.suppress(FileNotFoundError):
            path.unlink()


def complete(tail: int, memory_bytes: int, facts: Facts) -> None:
    """A file `tail`, which holds the device state, becomes all that stands behind the memory. Raises MountError."""
    device_bytes = os.fstat(tail).st_size
    if not 0 < device_bytes <= MAXIMUM_DEVICE_BYTES:
        raise MountError(f"{facts.vm} has a device state of {device_bytes} bytes; the most is {MAXIMUM_DEVICE_BYTES}")
    told = json.dumps(facts._asdict()).encode()
    digest = _digest(os.pread(tail, device_bytes, 0) + told)
    footer = _FOOTER.pack(_MAGIC, _VERSION, 0, memory_bytes, device_bytes, len(told), digest)
    os.pwrite(tail, told + footer, device_bytes)


def publish(mount: Mount, path: Path, place: Path) -> None:
    """Give a finished one its name, unless that is taken. Raises BusyError, MountError."""
    try:
        rename_to_new(path, place)
    except FileExistsError:
        raise taken(mount, place) from None
    except OSError as error:
        raise _cannot(place, "made", error) from None


def rename_to_new(path: Path, place: Path) -> None:
    """Rename a file, unless there is one of the new name. Raises FileExistsError, OSError."""
    if _libc.renameat2(_AT_FDCWD, os.fsencode(path), _AT_FDCWD, os.fsencode(place), _RENAME_NOREPLACE):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def taken(mount: Mount, place: Path) -> BusyError:
    """The name is."""
    name = listed_name(mount, place)
    return BusyError(
        f"there is a snapshot '{name}' already; take another name, or delete that one with "
        f"`blockstore snapshots delete {name}`"
    )


def shown_name(place: Path) -> str:
    return place.name.removeprefix(PREFIX).removesuffix(SUFFIX)


def listed_name(mount: Mount, place: Path) -> str:
    """Returns it with its domain, as `snapshots` lists it."""
    return str(place.relative_to(mount.path).with_name(shown_name(place)))


def load(mount: Mount, path: Path) -> Snapshot:
    """Read what stands behind the memory, and check it. Raises MountError, StateError."""
    with _reading(path) as descriptor:
        memory_bytes, device_state, facts = _tail(descriptor, path)
    return Snapshot(listed_name(mount, path), path, memory_bytes, len(device_state), facts)


def all_paths(mount: Mount, left_out: Callable[[str], None] | None = None) -> list[Path]:
    """The files of all snapshots of the mount, sorted. Raises MountError; of a domain that cannot be read `left_out` is
    told instead, if there is one."""
    return sorted(path for path in _hidden(mount, left_out) if path.name.endswith(SUFFIX))


def is_there(place: Path) -> bool:
    """Is there a file or folder of this name? Raises MountError where that cannot be told."""
    try:
        place.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise _cannot(place, "looked at", error) from None
    return True


def find(mount: Mount, name: str) -> Snapshot:
    """The one with this name; without its domain if it is the only one of that name. Raises InputError, StateError."""
    paths = all_paths(mount, _ignore)
    exact = [path for path in paths if path == place_named(mount, name)]
    found = exact or [path for path in paths if "/" not in name and shown_name(path) == name]
    if not found:
        raise InputError(f"{mount.path} has no snapshot '{name}'; `blockstore snapshots` lists those that there are")
    if len(found) > 1:
        names = ", ".join(load(mount, path).name for path in found)
        raise InputError(f"there are several snapshots of that name: {names}; say which one")
    return load(mount, found[0])


def clear_leftovers(mount: Mount) -> None:
    """Delete what processes that were killed have left half-made. Raises MountError."""
    for path in _hidden(mount, _ignore):
        owner = OWNER.fullmatch(path.name)
        if owner and start_time(int(owner[1])) != int(owner[2]):
            with contextlib.suppress(FileNotFoundError):
                path.unlink()


def _hidden(mount: Mount, left_out: Callable[[str], None] | None) -> Iterator[Path]:
    """Files with a dot, at the top of each domain."""
    try:
        domains = [Path(each) for each in os.scandir(mount.path) if each.is_dir(follow_symlinks=False)]
    except OSError as error:
        raise _cannot(mount.path, "read", error) from None
    for folder in (mount.path, *domains):
        try:
            names = os.listdir(folder)
        except FileNotFoundError:
            continue
        except OSError as error:
            failure = _cannot(folder, "read", error)
            if left_out is None or folder == mount.path:
                raise failure from None
            left_out(str(failure))
            continue
        yield from (folder / name for name in names if name.startswith(PREFIX))


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[int]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError as error:
        raise _cannot(path, "read", error) from None
    try:
        yield descriptor
    except OSError as error:
        raise _cannot(path, "read", error) from None
    finally:
        os.close(descriptor)


def _tail(descriptor: int, path: Path) -> tuple[int, bytes, Facts]:
    damaged = StateError(f"the snapshot {path} is damaged; delete it, and take or import it again")
    end = os.fstat(descriptor).st_size
    footer = os.pread(descriptor, _FOOTER.size, max(end - _FOOTER.size, 0))
    if len(footer) != _FOOTER.size:
        raise damaged
    magic, version, _, memory_bytes, device_bytes, facts_bytes, digest = _FOOTER.unpack(footer)
    if magic == _MAGIC and version != _VERSION:
        raise StateError(f"the snapshot {path} is of version {version}, and this is blockstore for version {_VERSION}")
    fits = device_bytes <= MAXIMUM_DEVICE_BYTES and facts_bytes <= MAXIMUM_FACTS_BYTES
    if magic != _MAGIC or not fits or memory_bytes + device_bytes + facts_bytes + _FOOTER.size != end:
        raise damaged
    tail = os.pread(descriptor, device_bytes + facts_bytes, memory_bytes)
    if _digest(tail) != digest:
        raise damaged
    return memory_bytes, tail[:device_bytes], facts_of(json.loads(tail[device_bytes:]))


def _digest(data: bytes) -> bytes:
    import hashlib  # 5 ms, and a fork, whose snapshot nobody reads, needs none

    return hashlib.sha256(data).digest()


def facts_of(fields: dict[str, Any]) -> Facts:
    """Of JSON. Raises InputError for what is none."""
    try:
        facts = Facts(**fields | {"disks": bases_of(fields.get("disks", []))})
    except (TypeError, ValueError) as error:
        raise InputError(f"these are no facts of a snapshot: {error}") from None
    texts = (facts.vm, facts.qemu, facts.machine, facts.program, facts.folder, facts.backend, *facts.arguments)
    if not all(isinstance(each, str) for each in texts) or not isinstance(facts.taken_at, (int, float)):
        raise InputError("these are no facts of a snapshot")
    return facts


def _ignore(sentence: str) -> None:
    """What is in a domain that cannot be read is nobody's here."""


def _cannot(path: Path, what: str, error: OSError) -> MountError | OutOfRoom:
    text = f"{path} cannot be {what}: {error.strerror}"
    return OutOfRoom(text) if error.errno == errno.ENOSPC else MountError(text)
