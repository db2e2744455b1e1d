"""Disks of VMs that go on from where another one was: each has an overlay of its own, a qcow2 file with what it has
written, over a base that nobody writes to any more. (qemu-img(1): create -b)

A base that was written to all the same would give wrong bytes, so size and time of each file below an overlay are
recorded, and looked at before another overlay is made.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from blockstore.errors import BusyError, InputError, MountError, VmError
from blockstore.vm.fork.ledger import Ledger

FORMAT: Final = "qcow2"

CREATE_S: Final = 30.0
"""An empty overlay is made in 20 ms; a disk that sleeps takes longer."""

Made = Callable[[Path], None]


class Image(NamedTuple):
    """A file as it was: `changed_ns` is its time of change. Both are 0 for a block device."""

    path: str
    size_bytes: int
    changed_ns: int


class Base(NamedTuple):
    """What overlays are made over: the file on top, in this format, and those below it."""

    format: str
    images: tuple[Image, ...]


def base_of(disk_format: str, paths: Sequence[Path]) -> Base:
    """As it is now. Raises VmError."""
    try:
        return Base(disk_format, tuple(Image(str(path), *_measured(path)) for path in paths))
    except OSError as error:
        raise VmError(f"the disk {error.filename} cannot be looked at: {error.strerror}") from None


def bases_of(fields: Any) -> tuple[Base, ...]:
    """Of JSON. Raises TypeError, ValueError for what is none."""
    bases = tuple(Base(str(disk_format), tuple(Image(*each) for each in images)) for disk_format, images in fields)
    for image in (image for base in bases for image in base.images):
        if not isinstance(image.path, str) or not all(isinstance(each, int) for each in image[1:]):
            raise TypeError("no base of a disk")
    return bases


def check(bases: Sequence[Base], whose: str) -> None:
    """Are they all as they were? `whose` they are is told. Raises InputError."""
    for image in (image for base in bases for image in base.images):
        try:
            found = _measured(Path(image.path))
        except OSError as error:
            raise InputError(
                f"{whose} needs the disk {image.path}, which cannot be had: {error.strerror}; put it back there"
            ) from None
        if found != image[1:]:
            raise InputError(
                f"the disk {image.path} has been written to since {whose} was taken, and does not fit its memory any "
                "more; bring back the file as it was, with its time (cp -p), or take another snapshot"
            )


def folder_of(place: Path) -> Path:
    """Where overlays can be put, absolute. Raises InputError."""
    folder = place.absolute()
    if not os.path.isdir(folder):
        raise InputError(f"there is no folder {folder} for disks; make it first: mkdir -p {folder}")
    if "," in str(folder) or "{" in str(folder):
        raise InputError(
            f"{folder} cannot be a folder for disks: QEMU's options have commas of their own; take another"
        )
    _program()
    return folder


def paths_for(folder: Path, vm: str, count: int) -> list[Path]:
    """Those of a new VM, which are not there yet. Raises BusyError."""
    paths = [folder / f"{vm.replace('/', '-')}.disk{number}.{FORMAT}" for number in range(1, count + 1)]
    for path in paths:
        if os.path.lexists(path):
            raise _is_there(path)
    return paths


def next_path(folder: Path, vm: str, number: int) -> Path:
    """For a disk of a VM that runs; nobody else has this name."""
    return folder / f"{vm.replace('/', '-')}.disk{number}.{os.urandom(4).hex()}.{FORMAT}"


def make(base_format: str, base: Path, path: Path, made: Made, watched: int, size_bytes: int | None = None) -> None:
    """Make an empty one; `made` is called as soon as there is a file, and qemu-img has `watched` open, a
    descriptor. Its owner and mode are the base's, if we may. The base is not opened if the size of the disk is given.
    Raises BusyError, MountError, VmError."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        raise _is_there(path) from None
    except OSError as error:
        raise MountError(f"{path} cannot be made: {error.strerror}") from None
    made(path)
    _as_the_base(base, path)
    import subprocess  # by those with disks only

    command = [_program(), "create", "-q", "-f", FORMAT, "-F", base_format, "-b", str(base)]
    command += [str(path)] if size_bytes is None else ["-u", str(path), str(size_bytes)]
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=CREATE_S,
            check=False,
            pass_fds=[watched],  # should we be killed, whoever removes the file sees when it is not made again
        )
    except subprocess.TimeoutExpired:
        raise VmError(
            f"qemu-img did not make {path} within {CREATE_S:g} s; is the disk that it is on asleep?"
        ) from None
    if done.returncode:
        words = " ".join(done.stderr.split()).removeprefix("qemu-img: ") or f"exit code {done.returncode}"
        raise VmError(f"qemu-img cannot make {path} over {base}: {words}")


def make_all(bases: Sequence[Base], paths: Sequence[Path], ledger: Ledger) -> None:
    """The overlays of one VM, each over its base. Raises BusyError, MountError, VmError."""
    for base, path in zip(bases, paths, strict=True):
        make(base.format, Path(base.images[0].path), path, ledger.file, ledger.writer)


def placeholders(paths: Sequence[Path]) -> dict[str, str]:
    """How a command line says them: {disk1}, {disk2}."""
    return {f"disk{number}": str(path) for number, path in enumerate(paths, 1)}


def check_command(command: Sequence[str], count: int, which: str) -> None:
    """Does a command line, `which` is told, say where each of so many disks comes? Raises InputError."""
    for number in range(1, count + 1):
        if not any(f"{{disk{number}}}" in word for word in command):
            raise InputError(
                f"{which} does not say where the new VM's disk {number} of {count} is to come; write one behind --, "
                f"with -drive file={{disk{number}}},format={FORMAT},..."
            )


def _measured(path: Path) -> tuple[int, int]:
    found = path.stat()
    return (0, 0) if stat.S_ISBLK(found.st_mode) else (found.st_size, found.st_mtime_ns)


def _as_the_base(base: Path, path: Path) -> None:
    """A QEMU that runs as another user must get at it."""
    try:
        found = base.stat()
        if not stat.S_ISBLK(found.st_mode):
            os.chown(path, found.st_uid, found.st_gid)
            path.chmod(stat.S_IMODE(found.st_mode) | stat.S_IWUSR)
    except OSError:
        return


def _program() -> str:
    import shutil  # and with it bz2, lzma and zlib, which the controller does without

    found = shutil.which("qemu-img")
    if found is None:
        raise InputError("there is no program qemu-img, which makes overlays; install it (Debian: qemu-utils)")
    return found


def _is_there(path: Path) -> BusyError:
    return BusyError(f"{path} is there already; name another folder, or delete it if nobody needs it: rm {path}")
