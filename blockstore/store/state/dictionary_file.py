"""The file of a dictionary: two copies, each complete in itself, so that either mends the other.

    copy    a header page, then room for the content; the second one stands behind the first
    header  little endian: 0 magic 16s, 16 version u32, 20 size in bytes u32, 24 domain u32, 28 slot u32,
            32 generation u64, 40 blocks that the domain had when it was trained u64, 48 digest of the content u64,
            56 digest of all that u64

Both digests are keyed with the domain's seed: no file of another domain is ever taken for its own. A file is complete
before any record needs it, and is never written again but to mend it. A killed process leaves it as it was; or, while
it is made, with no whole copy, which no record needs.
"""

from __future__ import annotations

import os
import struct
from typing import Final, NamedTuple

from blockstore.plane.codec.codec import digest
from blockstore.plane.codec.dictionary import DICTIONARY_BYTES
from blockstore.store.state.geometry import SLOTS
from blockstore.store.state.home import Home, allocate, lack_of_room

HEADER_BYTES: Final = 4096
COPY_BYTES: Final = HEADER_BYTES + DICTIONARY_BYTES
COPIES: Final = 2
FILE_BYTES: Final = COPIES * COPY_BYTES
"""136 KiB."""

_PREFIX: Final = "dictionary-"
_FIELDS: Final = struct.Struct("<16sIIIIQQQ")
_CHECK: Final = struct.Struct("<Q")
_MAGIC: Final = b"blockstore dict\0"
_VERSION: Final = 1


class DictionaryFile(NamedTuple):
    """What a copy says: who was the first has the lowest generation."""

    generation: int
    trained_blocks: int
    content: bytes


def file_name(domain: int, slot: int) -> str:
    """Returns the name of the file for a domain (its index) and a slot."""
    return f"{_PREFIX}{domain}-{slot}"


def place_of(name: str) -> tuple[int, int] | None:
    """Returns the domain and the slot of a file; None for the name of another one."""
    domain, _, slot = name.removeprefix(_PREFIX).partition("-")
    if not name.startswith(_PREFIX) or not domain.isdecimal() or not slot.isdecimal() or int(slot) >= SLOTS:
        return None
    return (int(domain), int(slot)) if name == file_name(int(domain), int(slot)) else None


def write(home: Home, domain: int, slot: int, seed: int, file: DictionaryFile) -> int:
    """Makes the file, in place of what was there. Returns its descriptor. Raises OutOfRoom, OSError, and then leaves
    none."""
    name = file_name(domain, slot)
    home.remove(name)
    fd = home.open(name)
    try:
        allocate(fd, 0, FILE_BYTES, home.describe())
        for copy in range(COPIES):
            _put(fd, copy, _packed(domain, slot, seed, file))
    except BaseException as error:
        os.close(fd)
        home.remove(name)
        raise lack_of_room(error, home.describe()) if isinstance(error, OSError) else error from None
    return fd


def read(fd: int, domain: int, slot: int, seed: int) -> tuple[DictionaryFile | None, list[int]]:
    """Returns what the file says, None if no copy is whole, and which copies are not."""
    found = [_unpacked(os.pread(fd, COPY_BYTES, copy * COPY_BYTES), domain, slot, seed) for copy in range(COPIES)]
    damaged = [copy for copy, file in enumerate(found) if file is None]
    return next((file for file in found if file is not None), None), damaged


def mend(fd: int, domain: int, slot: int, seed: int, file: DictionaryFile, damaged: list[int]) -> None:
    """Writes these copies anew. Raises OSError."""
    for copy in damaged:
        _put(fd, copy, _packed(domain, slot, seed, file))


def _put(fd: int, copy: int, data: bytes) -> None:
    written = 0
    while written < len(data):
        written += os.pwrite(fd, data[written:], copy * COPY_BYTES + written)


def _packed(domain: int, slot: int, seed: int, file: DictionaryFile) -> bytes:
    assert len(file.content) <= DICTIONARY_BYTES
    fields = _FIELDS.pack(
        _MAGIC,
        _VERSION,
        len(file.content),
        domain,
        slot,
        file.generation,
        file.trained_blocks,
        digest(file.content, seed),
    )
    return (fields + _CHECK.pack(digest(fields, seed))).ljust(HEADER_BYTES, b"\0") + file.content


def _unpacked(data: bytes, domain: int, slot: int, seed: int) -> DictionaryFile | None:
    """Returns None for a copy that is not whole, or of another place."""
    if len(data) < HEADER_BYTES:
        return None
    fields = data[: _FIELDS.size]
    if _CHECK.unpack_from(data, _FIELDS.size)[0] != digest(fields, seed):
        return None
    magic, version, size_bytes, of_domain, of_slot, generation, trained_blocks, wanted = _FIELDS.unpack(fields)
    content = data[HEADER_BYTES : HEADER_BYTES + size_bytes]
    if (magic, version, of_domain, of_slot) != (_MAGIC, _VERSION, domain, slot) or len(content) != size_bytes:
        return None
    return DictionaryFile(generation, trained_blocks, content) if digest(content, seed) == wanted else None
