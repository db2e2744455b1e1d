"""The overlays that `--disks` has left in folders: which there are, and what still needs each.

An overlay of a VM that was started on it (a fork, a restored VM: VM.diskN.qcow2) holds what that VM has written, and
is of no use when the VM, and its memory, are gone. One that a VM went on in (VM.diskN.HEX.qcow2) is its disk by now,
and is never taken for useless.
"""

from __future__ import annotations

import fcntl
import os
import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from blockstore.daemon.host.mounts import Mount
from blockstore.errors import InputError, MountError
from blockstore.store.state.home import SECTOR_BYTES
from blockstore.vm.snapshot import snapshot_file

_NAME: Final = re.compile(r"(?P<vm>.+)\.disk[1-9][0-9]*(?P<went_on>\.[0-9a-f]{8})?\.qcow2", re.DOTALL)
"""What overlays.paths_for and next_path call them."""

# magic 4s, version I, where the name of the file below begins Q, its bytes I (docs/interop/qcow2.txt)
_HEADER: Final = struct.Struct(">4sIQI")
_MAGIC: Final = b"QFI\xfb"
_LONGEST_NAME_BYTES: Final = 1023

_LOCKED_FROM: Final = 100
_LOCKED_BYTES: Final = 200
"""Where QEMU locks bytes of each file that it has open as a disk, or below one (block/file-posix.c)."""

_FLOCK: Final = struct.Struct("hhqqi4x")


class Overlay(NamedTuple):
    """One file: its VM, the bytes that it takes, and what needs it; empty if nothing does. Of a VM whose memory file is
    gone, only what the overlay is called after is known, with - for each /."""

    path: Path
    vm: str
    size_bytes: int
    needed_by: str


def overlays_in(folders: Sequence[Path], mounts: Sequence[Mount]) -> list[Overlay]:
    """Returns those in the folders, by path; what needs them is looked for in these folders and in the mounts. Raises
    InputError, MountError."""
    places = {Path(os.path.realpath(folder)) for folder in folders}
    below = {path: _below(path) for folder in folders for path in _images(folder)}
    over, described = _over(below)
    uses = _uses(mounts)
    memories = {name.replace("/", "-"): name for mount in mounts for name in _files(mount)}
    found = []
    for path in sorted(path for path, base in below.items() if base):
        name = _NAME.fullmatch(path.name)
        if name is None or path.parent not in places:
            continue
        on_it = min((*over.get(str(path), ()), *(each for each in described if path.name in below[each])), default=None)
        vm, needed_by = memories.get(name["vm"], name["vm"]), ""
        try:
            is_open, size_bytes = _is_open(path), path.stat().st_blocks * SECTOR_BYTES
        except FileNotFoundError:  # deleted meanwhile
            continue
        if is_open:
            needed_by = "a VM that runs"
        elif on_it is not None:
            needed_by = f"the overlay {on_it.name}"
        elif path in uses:
            needed_by = f"the snapshot {uses[path]}"
        elif name["vm"] in memories:
            needed_by = f"the memory file {vm}"
        elif name["went_on"]:
            needed_by = f"{vm}, whose disk it is by now"
        found.append(Overlay(path, vm, size_bytes, needed_by))
    return found


def _images(folder: Path) -> Iterator[Path]:
    """Yields the regular files of the folder, and those that its symbolic links lead to: an overlay that lies on one of
    ours may have any name. Raises InputError."""
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise InputError(f"{folder} cannot be read: {error.strerror}; name a folder that `--disks` was given") from None
    paths = (Path(os.path.realpath(folder / name)) for name in names)
    yield from (path for path in paths if path.is_file())


def _below(path: Path) -> str:
    """Returns the name of the file that this one is an overlay over, as QEMU has written it; empty if it is no overlay,
    or was deleted. Raises InputError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise InputError(f"{path} cannot be looked at: {error.strerror}; run this as its owner") from None
    try:
        header = os.pread(descriptor, _HEADER.size, 0)
        if len(header) < _HEADER.size or header[:4] != _MAGIC:
            return ""
        _, _, start, length = _HEADER.unpack(header)
        if not (start and 0 < length <= _LONGEST_NAME_BYTES):
            return ""
        return os.fsdecode(os.pread(descriptor, length, start))
    finally:
        os.close(descriptor)


def _over(below: Mapping[Path, str]) -> tuple[dict[str, list[Path]], list[Path]]:
    """Returns the images that lie on each file, and those of which QEMU has written a description in JSON: such a one
    lies on a file if the file's name is in that."""
    over: dict[str, list[Path]] = {}
    described = []
    for image, base in below.items():
        if base.startswith("json:"):
            described.append(image)
        elif base:
            over.setdefault(os.path.realpath(image.parent / base.removeprefix("file:")), []).append(image)
    return over, described


def _is_open(path: Path) -> bool:
    """Returns whether some QEMU has it open, whoever's and wherever it runs: the kernel knows of its locks."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        wanted = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _LOCKED_FROM, _LOCKED_BYTES, 0)
        return bool(_FLOCK.unpack(fcntl.fcntl(descriptor, fcntl.F_OFD_GETLK, wanted))[0] != fcntl.F_UNLCK)
    finally:
        os.close(descriptor)


def _uses(mounts: Sequence[Mount]) -> dict[Path, str]:
    """Returns the files that snapshots of the mounts need, and by which."""
    uses: dict[Path, str] = {}
    for mount in mounts:
        for place in snapshot_file.all_paths(mount):
            snapshot = snapshot_file.load(mount, place)
            for base in snapshot.facts.disks:
                uses |= {Path(os.path.realpath(image.path)): snapshot.name for image in base.images}
    return uses


def _files(mount: Mount) -> Iterator[str]:
    def failed(error: OSError) -> None:
        raise MountError(f"{error.filename} cannot be read: {error.strerror}")

    for folder, _, names in os.walk(mount.path, onerror=failed):
        yield from (str((Path(folder) / name).relative_to(mount.path)) for name in names)
