"""The superblock: says that a directory is a blockstore state, of which version and geometry, and which one.

Offset 0 magic 16s, 16 format version u32 (FORMAT_VERSION, or DICTIONARY_VERSION), 20 block bytes u32,
24 segment bytes u32, 28 row bytes u32, 32 id 16s.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from blockstore.errors import InputError, StateError
from blockstore.store.state.geometry import BLOCK_BYTES, DICTIONARY_VERSION, FORMAT_VERSION, ROW_BYTES, SEGMENT_BYTES
from blockstore.store.state.home import Home, allocate

LAYOUT: Final = struct.Struct("<16sIIII16s")
NAME: Final = "superblock"
_VERSION_AT: Final = 16
_VERSION_BYTES: Final = 4
_MAGIC: Final = b"blockstore state"


def check_or_create(home: Home) -> bool:
    """Read the superblock, or write one into an empty home. True when the state existed before.

    Raises StateError for a directory that holds something else, another version, or another geometry.
    """
    names = _kept(home.names())
    refuse_foreign(names, home.describe())
    if NAME not in names:
        _create(home)
        return False
    fd = home.open(NAME)
    try:
        data = os.pread(fd, LAYOUT.size, 0)
    finally:
        os.close(fd)
    if not any(data) and names == {NAME}:  # killed while it was made
        _create(home)
        return False
    _check(data, home.describe())
    return True


def read_id(home: Home) -> bytes:
    """The 16 bytes that tell this state from all others; zeros in memory, which keeps no superblock."""
    fd = home.open(NAME)
    try:
        return bytes(LAYOUT.unpack(os.pread(fd, LAYOUT.size, 0).ljust(LAYOUT.size, b"\0"))[-1])
    finally:
        os.close(fd)


def read_version(home: Home) -> int:
    """The format version of a state that was checked; 0 in memory."""
    fd = home.open(NAME)
    try:
        return int.from_bytes(os.pread(fd, _VERSION_BYTES, _VERSION_AT), "little")
    finally:
        os.close(fd)


def raise_version(home: Home) -> None:
    """From now on the state is one of DICTIONARY_VERSION, which code that knows no dictionaries refuses. Raises
    OSError."""
    if read_version(home) != FORMAT_VERSION:
        return
    fd = home.open(NAME)
    try:
        os.pwrite(fd, DICTIONARY_VERSION.to_bytes(_VERSION_BYTES, "little"), _VERSION_AT)
    finally:
        os.close(fd)


def check_version(state: Path) -> None:
    """Raise StateError if this code cannot use the state. Reads one file, takes no lock, writes nothing."""
    try:
        data = (state / NAME).read_bytes()
    except FileNotFoundError:
        raise StateError(f"{state} holds no blockstore state") from None
    except OSError as error:
        raise InputError(f"the state in {state} cannot be read: {error.strerror}; run this as its owner") from None
    _check(data[: LAYOUT.size], str(state))


def _check(data: bytes, place: str) -> None:
    if len(data) < LAYOUT.size or data[:16] != _MAGIC:
        raise StateError(f"the superblock of {place} is damaged; restore the directory, or mount with an empty one")
    _, version, block_bytes, segment_bytes, row_bytes, _ = LAYOUT.unpack(data)
    if version not in (FORMAT_VERSION, DICTIONARY_VERSION):
        raise StateError(
            f"the state in {place} has format version {version}, not {FORMAT_VERSION} or {DICTIONARY_VERSION}; "
            "use the blockstore that wrote it, or mount with an empty state directory"
        )
    if (block_bytes, segment_bytes, row_bytes) != (BLOCK_BYTES, SEGMENT_BYTES, ROW_BYTES):
        raise StateError(
            f"the state in {place} has another geometry (blocks of {block_bytes} bytes, segments of "
            f"{segment_bytes}); use the blockstore that wrote it, or mount with an empty state directory"
        )


def refuse_foreign(names: Iterable[str], place: str) -> None:
    """Raise StateError for a directory that has these files in it and is no state, before anything is put there."""
    kept = _kept(names)
    if kept and NAME not in kept:
        raise StateError(
            f"{place} holds files but no blockstore state (for example '{min(kept)}'); "
            "name an empty or new directory with --state"
        )


def _kept(names: Iterable[str]) -> set[str]:
    """Without the files that are there while a daemon runs, and after it died."""
    return {name for name in names if name not in ("lock", "control") and not name.startswith("daemon.")}


def _create(home: Home) -> None:
    fd = home.open(NAME)
    try:
        allocate(fd, 0, LAYOUT.size, home.describe())
        os.pwrite(
            fd,
            LAYOUT.pack(_MAGIC, FORMAT_VERSION, BLOCK_BYTES, SEGMENT_BYTES, ROW_BYTES, os.urandom(16)),
            0,
        )
    except BaseException:
        home.remove(NAME)
        raise
    finally:
        os.close(fd)
