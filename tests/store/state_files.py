"""Reads a state by its format alone, without any code of the product: every engine that writes it can be judged by it.

    superblock    magic 16s, format version u32, block, segment and row bytes u32, id 16s
    domains       (key, seed, check) u64 each; the check is the digest of the key under the seed
    volume-N      a page: magic, number, domain key, size word u64, mtime in ns i64, digest of number and key u64;
                  then a map entry u64 for each block: bits 0..31 the block id, 32..63 half of the content's digest
    rows-where    u64: bits 0..2 encoding, 3..15 size, 16..62 offset in the pool; bit 63: 36..62 piece, 16..35 offset
    rows-digest   u64, rows-reference u32, rows-domain u16, rows-count u32, rows-dependents u16
    pool          records, in segments of 1 MiB
    pieces        u64: bits 0..20 the length, 21..63 of the digest of a piece of the tier
    dictionary-D-N  two copies of a page and 64 KiB each: magic 16s, version, size, domain, slot u32, generation,
                  blocks, digest of the content u64, digest of all that u64, both under the domain's seed; then content
    arrivals      place, two words of a digest, source, u64 each

Reading changes nothing. Tables are read by pread(2), which gives no hole of a file memory, as a mapping would; the pool
is mapped, for a record that lies in a hole of it is a fault anyway.
"""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tests.store.places import Files, data_ranges
from tests.store.records import (
    BLOCK_BYTES,
    SEGMENT_BYTES,
    ZSTD_FIRST,
    ZSTD_SECOND,
    Damaged,
    Elsewhere,
    ReadPiece,
    decode,
    digest,
)

FORMAT_VERSION: Final = 4
DICTIONARY_VERSION: Final = 5
"""Those that are read here; the second is that of a state which has, or had, a dictionary."""

ROW_BYTES: Final = 28
PAGE_BYTES: Final = 4096

ZERO, LOST, DUE, FIRST_ROW = 1, 2, 3, 4
"""Block ids; 0 is a hole, and the first three are no rows either."""

MARKS: Final = {ZERO: int.from_bytes(b"zero", "big"), LOST: int.from_bytes(b"lost", "big")}
"""The upper halves of their map entries."""

DUE_FACTOR: Final = 61
"""The upper half of the entry of a due block is this times its place among the arrivals."""

SUPERBLOCK: Final = struct.Struct("<16sIIII16s")
SUPERBLOCK_MAGIC: Final = b"blockstore state"
VOLUME_HEADER: Final = struct.Struct("<4QqQ")
VOLUME_MAGIC: Final = int.from_bytes(b"bsvolume", "little")

DICTIONARY_HEADER: Final = struct.Struct("<16s4I4Q")
DICTIONARY_MAGIC: Final = b"blockstore dict\0"
DICTIONARY_COPY_BYTES: Final = 4096 + (64 << 10)

PIECE_LENGTH_MASK: Final = (1 << 21) - 1
SIZE_BITS: Final = 45
"""Of the size word of a volume; its other bits are a check."""

COLUMNS: Final = {
    "where": "<u8",
    "digest": "<u8",
    "reference": "<u4",
    "domain": "<u2",
    "count": "<u4",
    "dependents": "<u2",
}

Words = npt.NDArray[np.uint64]
Numbers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Superblock:
    magic: bytes
    version: int
    block_bytes: int
    segment_bytes: int
    row_bytes: int
    id: bytes


@dataclass(frozen=True)
class Domain:
    index: int
    key: int
    seed: int
    check: int


@dataclass(frozen=True)
class Volume:
    """`blocks` are the numbers of those with a map entry other than 0, `entries` these entries."""

    name: str
    magic: int
    number: int
    domain_key: int
    size_word: int
    mtime_ns: int
    digest: int
    capacity: int
    blocks: Numbers
    entries: Words

    @property
    def size_bytes(self) -> int:
        return self.size_word & (1 << SIZE_BITS) - 1


class State:
    """All tables of a state, each as it is when it is first asked for; records are read when they are asked for."""

    def __init__(self, files: Files, read_piece: ReadPiece | None = None) -> None:
        self._files = files
        self._read_piece = read_piece
        self._names = set(files.names())
        self._references: dict[int, bytes] = {}
        self._pieces: dict[int, bytes] = {}

    @cached_property
    def superblock(self) -> Superblock | None:
        """None in memory, which keeps none."""
        data = self._read("superblock")
        return Superblock(*SUPERBLOCK.unpack(data[: SUPERBLOCK.size])) if data else None

    @cached_property
    def rows_capacity(self) -> int:
        """Rows that are in all columns: growth that found no room half-way, or was killed, leaves longer ones."""
        return min(self._size_bytes(f"rows-{name}") // np.dtype(dtype).itemsize for name, dtype in COLUMNS.items())

    @cached_property
    def where(self) -> Words:
        return self._column("where")

    @cached_property
    def digest(self) -> Words:
        return self._column("digest")

    @cached_property
    def reference(self) -> Numbers:
        return self._column("reference").astype(np.int64)

    @cached_property
    def domain(self) -> Numbers:
        return self._column("domain").astype(np.int64)

    @cached_property
    def count(self) -> Numbers:
        return self._column("count").astype(np.int64)

    @cached_property
    def dependents(self) -> Numbers:
        return self._column("dependents").astype(np.int64)

    @cached_property
    def encoding(self) -> Numbers:
        return (self.where & np.uint64(7)).astype(np.int64)

    @cached_property
    def size(self) -> Numbers:
        """The bytes of each row's record."""
        return (self.where >> np.uint64(3) & np.uint64(0x1FFF)).astype(np.int64)

    @cached_property
    def is_paged(self) -> npt.NDArray[np.bool_]:
        return self.where >= np.uint64(1 << 63)

    @cached_property
    def offset(self) -> Numbers:
        """Where each record begins: in the pool, or in its piece."""
        in_pool = (self.where >> np.uint64(16)).astype(np.int64)
        return np.where(self.is_paged, in_pool & (SEGMENT_BYTES - 1), in_pool)

    @cached_property
    def piece(self) -> Numbers:
        """In which piece each record is, if it is in one."""
        return (self.where >> np.uint64(36) & np.uint64((1 << 27) - 1)).astype(np.int64)

    @cached_property
    def pieces(self) -> Words:
        return self._table("pieces", "<u8")

    @property
    def piece_lengths(self) -> Numbers:
        return (self.pieces & np.uint64(PIECE_LENGTH_MASK)).astype(np.int64)

    @cached_property
    def domains(self) -> list[Domain]:
        triples = self._table("domains", "<u8")
        return [
            Domain(index, *(int(word) for word in triples[3 * index : 3 * index + 3]))
            for index in np.flatnonzero(triples[: len(triples) // 3 * 3 : 3]).tolist()
        ]

    @cached_property
    def arrivals(self) -> int:
        """How many there are."""
        used = np.flatnonzero(self._table("arrivals", "<u8"))
        return int(used[-1]) // 4 + 1 if len(used) else 0

    @cached_property
    def pool_data(self) -> list[tuple[int, int]]:
        """The ranges of the pool that have memory."""
        with self._opened("pool") as fd:
            return data_ranges(fd)

    @cached_property
    def volumes(self) -> list[Volume]:
        return [self._volume(name) for name in sorted(self._names) if name.startswith("volume-")]

    def is_written(self, segment: int) -> bool:
        """Is a byte in this segment of the pool other than 0?"""
        with self._opened("pool") as fd:
            return bool(os.pread(fd, SEGMENT_BYTES, segment * SEGMENT_BYTES).strip(b"\0"))

    def volume(self, number: int) -> Volume:
        return next(volume for volume in self.volumes if volume.number == number)

    def content(self, row: int) -> bytes:
        """The block of a row, as its record decodes. Raises Damaged, Elsewhere."""
        word, reference = int(self.where[row]), b""
        if word & 3 == 3:
            base = int(self.reference[row])
            if base >= self.rows_capacity or int(self.where[base]) & 3 == 3:
                raise Damaged(f"row {row} has the reference {base}, which can be none")
            reference = self._references.get(base) or self._references.setdefault(base, self.content(base))
        elif word & 7 in (ZSTD_FIRST, ZSTD_SECOND):
            index, slot = int(self.domain[row]), (word & 7) - ZSTD_FIRST
            reference = self.dictionaries.get((index, slot), b"")
            if not reference:
                raise Damaged(f"row {row} needs dictionary-{index}-{slot}")
        return decode(self._record(word), word & 7, reference)

    @cached_property
    def dictionaries(self) -> dict[tuple[int, int], bytes]:
        """The content of each that has a whole copy, by domain and slot."""
        found = {}
        for name in sorted(self._names):
            if name.startswith("dictionary-"):
                index, slot = map(int, name.removeprefix("dictionary-").split("-"))
                seeds = [domain.seed for domain in self.domains if domain.index == index]
                copies = [self.dictionary_copy(name, copy, seeds[0]) if seeds else b"" for copy in range(2)]
                found[index, slot] = copies[0] or copies[1]
        return {place: content for place, content in found.items() if content}

    def dictionary_copy(self, name: str, copy: int, seed: int) -> bytes:
        """The content of a copy; nothing if it is not whole."""
        with self._opened(name) as fd:
            data = os.pread(fd, DICTIONARY_COPY_BYTES, copy * DICTIONARY_COPY_BYTES)
        if len(data) < PAGE_BYTES:
            return b""
        magic, version, size, domain, slot, _, _, wanted, check = DICTIONARY_HEADER.unpack_from(data)
        content = data[PAGE_BYTES : PAGE_BYTES + size]
        is_whole = (
            magic == DICTIONARY_MAGIC
            and version == 1
            and name == f"dictionary-{domain}-{slot}"
            and check == digest(data[: DICTIONARY_HEADER.size - 8], seed)
            and wanted == digest(content, seed)
        )
        return content if is_whole else b""

    def contents(self, number: int) -> bytes:
        """All bytes of a volume. Raises Damaged, Elsewhere."""
        volume = self.volume(number)
        result = bytearray(-(-volume.size_bytes // BLOCK_BYTES) * BLOCK_BYTES)
        for block, entry in zip(volume.blocks.tolist(), volume.entries.tolist(), strict=True):
            row = entry & 0xFFFF_FFFF
            if row == DUE:
                raise Elsewhere
            if row == LOST:
                raise Damaged(f"block {block} of volume {number} is lost")
            if row != ZERO and block * BLOCK_BYTES < len(result):
                result[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES] = self.content(row)
        return bytes(result[: volume.size_bytes])

    def _record(self, word: int) -> bytes:
        size_bytes = word >> 3 & 0x1FFF
        if word >> 63:
            if self._read_piece is None:
                raise Elsewhere
            piece, start = word >> 36 & (1 << 27) - 1, word >> 16 & (SEGMENT_BYTES - 1)
            return self._whole_piece(piece)[start : start + size_bytes]
        start = word >> 16
        return self._pool[start : start + size_bytes]

    def _whole_piece(self, piece: int) -> bytes:
        """Read once, however many records are in it. Raises Damaged."""
        if piece not in self._pieces:
            assert self._read_piece is not None
            length = int(self.piece_lengths[piece]) if piece < len(self.pieces) else 0
            if not length:
                raise Damaged(f"there is no piece {piece}")
            self._pieces[piece] = self._read_piece(piece, 0, length)
        return self._pieces[piece]

    @cached_property
    def _pool(self) -> mmap.mmap | bytes:
        """Up to the last byte with memory."""
        if not self.pool_data:
            return b""
        with self._opened("pool") as fd:
            return mmap.mmap(fd, self.pool_data[-1][1], prot=mmap.PROT_READ)

    def _column(self, name: str) -> npt.NDArray[Any]:
        return self._table(f"rows-{name}", COLUMNS[name])[: self.rows_capacity]

    def _table(self, name: str, dtype: str) -> npt.NDArray[Any]:
        data, width = self._read(name), np.dtype(dtype).itemsize
        return np.frombuffer(data[: len(data) // width * width], dtype=dtype)

    def _read(self, name: str) -> bytes:
        with self._opened(name) as fd:
            return os.pread(fd, os.fstat(fd).st_size, 0)

    def _size_bytes(self, name: str) -> int:
        with self._opened(name) as fd:
            return os.fstat(fd).st_size

    @contextmanager
    def _opened(self, name: str) -> Iterator[int]:
        """A descriptor of the file; of an empty one if it is not there."""
        try:
            fd = self._files.open(name) if name in self._names else os.memfd_create("nothing")
        except FileNotFoundError:
            fd = os.memfd_create("nothing")
        try:
            yield fd
        finally:
            os.close(fd)

    def _volume(self, name: str) -> Volume:
        blocks, entries = [np.empty(0, np.int64)], [np.empty(0, np.uint64)]
        with self._opened(name) as fd:
            header = VOLUME_HEADER.unpack(os.pread(fd, VOLUME_HEADER.size, 0).ljust(VOLUME_HEADER.size, b"\0"))
            capacity = max(os.fstat(fd).st_size - PAGE_BYTES, 0) // 8
            for start, end in data_ranges(fd):
                start = max(start, PAGE_BYTES)
                words = np.frombuffer(os.pread(fd, max(end - start, 0) // 8 * 8, start), dtype="<u8")
                used = np.flatnonzero(words)
                blocks.append(used + (start - PAGE_BYTES) // 8)
                entries.append(words[used])
        magic, number, domain_key, size, mtime_ns, check = header
        found = (np.concatenate(blocks), np.concatenate(entries))
        return Volume(name, magic, number, domain_key, size, mtime_ns, check, capacity, *found)


def size_word(size_bytes: int) -> int:
    """The word in which the header of a volume has its size."""
    check = ((size_bytes + 1) * 0x9E37_79B9_7F4A_7C15 & 0xFFFF_FFFF_FFFF_FFFF) >> SIZE_BITS
    return size_bytes | check << SIZE_BITS
