"""A volume: the memory of one VM. Its map says for each block which content it has.

The file of a volume is one header page and then the map, a 64-bit entry (geometry.py) for each block. Map pages are
given memory when the first of their entries is written (`prepare`), so a sparse volume of any size costs what it
holds; entries of pages without memory are holes and must not be touched.

Header page (little endian): offset 0 magic u64, 8 number u64, 16 domain key u64, 24 size u64, 32 mtime in ns i64,
40 digest of number and domain key u64. The size is stored after the map has changed when growing, before it when
shrinking, together with its check in one word: bits 0..44 the size in bytes, 45..63 the check.
"""

from __future__ import annotations

import mmap
import os
import time
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from blockstore.errors import StateError
from blockstore.plane.blocks import ranges
from blockstore.plane.codec.codec import digest
from blockstore.plane.codec.features import multipliers
from blockstore.plane.sync.region import Region
from blockstore.plane.tables.block_map import BlockMap
from blockstore.store.state.geometry import BLOCK_BYTES, BLOCK_SHIFT, ZERO_BLOCK
from blockstore.store.state.home import Home, allocate, lack_of_room, punch
from blockstore.store.state.mapping import LARGEST_MAP_BYTES, MAP_BYTES, extend
from blockstore.store.state.untouched import untouched

if TYPE_CHECKING:
    from blockstore.plane.buffers import U64s

MAXIMUM_SIZE_BYTES: Final = 1 << 44
"""16 TiB, more than any VM has; the map of such a volume takes 32 GiB of addresses."""

EARLIEST_S: Final = -(1 << 63) // 10**9 + 1
LATEST_S: Final = (1 << 63) // 10**9
"""Times of files in seconds since 1970: as signed 64-bit nanoseconds they reach from September 1677 to April 2262."""

HEADER_BYTES: Final = 4096
_MAGIC: Final = int.from_bytes(b"bsvolume", "little")
_MAGIC_AT, _NUMBER_AT, _DOMAIN_AT, _SIZE_AT, _MTIME_AT, _DIGEST_AT = range(6)

_SIZE_BITS: Final = 45
_SIZE_MASK: Final = (1 << _SIZE_BITS) - 1
_SIZE_MIX: Final = 0x9E37_79B9_7F4A_7C15

_ENTRY_BYTES: Final = 8
PAGE_ENTRIES: Final = mmap.PAGESIZE // _ENTRY_BYTES
"""Entries on one page of the map; the unit in which the map is given memory. 512 entries stand for 2 MiB."""

_PAGE_SHIFT: Final = PAGE_ENTRIES.bit_length() - 1
_FEW_PAGES: Final = (MAP_BYTES - HEADER_BYTES) // mmap.PAGESIZE
"""Of a map that needs no more than MAP_BYTES (mapping.py). A larger one may have as many as there can be."""

_WITH: Final = b"\1"
_WITHOUT: Final = b"\0"


@dataclass
class Domain:
    """The set of volumes that may share blocks, with the key of its digests and features."""

    index: int
    key: int
    seed: int
    volumes: int = 0

    def __post_init__(self) -> None:
        self.multipliers = multipliers(self.seed)
        self.zero_digest = digest(ZERO_BLOCK, self.seed)


class Volume:
    """`map` (a memoryview, "Q") is for entries of prepared pages, `block_map` for compiled code; on unprepared pages
    all are holes."""

    map: memoryview

    def __init__(self, home: Home, number: int, domain: Domain, *, create: bool) -> None:
        self.number = number
        self.domain = domain
        self._place = home.describe()
        self._fd = home.open(file_name(number))
        self._pages = untouched(_FEW_PAGES)
        """For each page of the map whether it has memory. It stays where it is, for lanes read it without a lock; a map
        that outgrows it gets another one."""
        self._outgrown: list[mmap.mmap] = []
        self.block_map = BlockMap(
            domain.seed, domain=domain.index, zero_digest=domain.zero_digest, feature_key=domain.multipliers
        )
        self._capacity = 0
        self._regions: list[Region] = []
        try:
            if create:
                allocate(self._fd, 0, HEADER_BYTES, self._place)
                self._map_file(0)
                self._header[_NUMBER_AT] = number
                self._header[_DOMAIN_AT] = domain.key
                self._header[_DIGEST_AT] = _header_digest(number, domain.key)
                self._header[_SIZE_AT] = pack_size(0)
                self.touch()
                self._header[_MAGIC_AT] = _MAGIC
            else:
                self._map_file((os.fstat(self._fd).st_size - HEADER_BYTES) // _ENTRY_BYTES)
                self._find_pages()
                self.block_map.size_bytes = self._stored_size(home)
        except BaseException:
            os.close(self._fd)
            raise

    @property
    def refaults(self) -> int:
        """Blocks that left the page cache and were asked for again one by one, since this daemon's start or the
        VM's: reads of entries that are not HOLE. Counted by whoever answers reads."""
        return self.block_map.refaults

    @property
    def range_refaults(self) -> int:
        """The same, in requests for more than one block (read-ahead)."""
        return self.block_map.range_refaults

    @property
    def range_requests(self) -> int:
        """Those requests."""
        return self.block_map.range_requests

    @property
    def blocks(self) -> int:
        return (self.size_bytes + BLOCK_BYTES - 1) >> BLOCK_SHIFT

    @property
    def has_paged_tail(self) -> bool:
        """There may be bytes behind the end in the last block, which is in the tier (recovery.py)."""
        return self.block_map.has_paged_tail

    @has_paged_tail.setter
    def has_paged_tail(self, value: bool) -> None:
        self.block_map.has_paged_tail = value

    @property
    def deleted(self) -> bool:
        """Is it being deleted, or has it been?"""
        return self.block_map.is_deleted

    @property
    def size_bytes(self) -> int:
        """The size of the file; the last block may be partly used."""
        return self.block_map.size_bytes

    @property
    def touched_blocks(self) -> int:
        """Blocks that were written and not freed: entries that are not HOLE."""
        return self.block_map.touched_blocks

    @property
    def mtime_ns(self) -> int:
        return self._signed_header[_MTIME_AT]

    @mtime_ns.setter
    def mtime_ns(self, value: int) -> None:
        self._signed_header[_MTIME_AT] = clamp_time_ns(value)

    def touch(self) -> None:
        """The content changed now."""
        self._signed_header[_MTIME_AT] = time.time_ns()

    def set_size(self, size_bytes: int) -> None:
        """Store the size. Blocks beyond it must have been made holes by the caller."""
        self.cover((size_bytes + BLOCK_BYTES - 1) >> BLOCK_SHIFT)
        self._header[_SIZE_AT] = pack_size(size_bytes)
        self.block_map.size_bytes = size_bytes

    def cover(self, blocks: int) -> None:
        """Let the map have entries for so many blocks, all holes where it had none; the size stays."""
        if blocks > self._capacity:
            # An eighth more than asked for, or a file that is written from front to back is made longer each time.
            self._map_file(blocks + blocks // 8)

    def prepare(self, first: int, count: int) -> None:
        """Give the map's pages for these blocks memory. The map must cover them. Raises OutOfRoom."""
        if error := self.block_map.give_memory(first, count):
            raise lack_of_room(OSError(error, os.strerror(error)), self._place)

    def replace(self, first: int, entries: U64s) -> None:
        """Let the blocks from `first` on have these entries (their pages are prepared). No count changes: neither that
        of a row that they had, nor of one that they get."""
        ranges.replace(self.block_map, first, entries)

    def adopt(self, touched_blocks: int) -> None:
        """At start on existing state: take back entries behind the end, which a killed process did not get to publish
        with a size. `touched_blocks` of the others have been counted."""
        ranges.clear(self.block_map, self.blocks, self._capacity)
        self.block_map.touched_blocks = touched_blocks

    def lookup(self, block: int) -> int:
        """The map entry of one block; HOLE beyond the end."""
        if block >= self._capacity or not self._pages[block >> _PAGE_SHIFT]:
            return 0
        return self.map[block]

    def entries(self, first: int, count: int) -> array[int]:
        """A copy of the map entries ("Q") of `count` blocks from `first`; HOLE beyond the end."""
        return self.block_map.copy(first, count)

    def has_data(self, first: int, count: int) -> bool:
        """Is any of `count` blocks from `first` no hole?"""
        return self.block_map.next_data(first, first + count) < first + count

    def seek(self, offset: int, *, data: bool) -> int:
        """The next offset at or after `offset` inside data or a hole; the size if there is none (lseek(2))."""
        look = self.block_map.next_data if data else self.block_map.next_hole
        return min(max(look(offset >> BLOCK_SHIFT, self.blocks) << BLOCK_SHIFT, offset), self.size_bytes)

    def count_fault(self, blocks: int) -> None:
        """A read of one block was answered, which is not a hole if `blocks` is 1."""
        self.block_map.count_fault(blocks)

    def count_range(self, blocks: int) -> None:
        """A read of a range was answered, of which so many blocks are not holes."""
        self.block_map.count_range(blocks)

    def forget_reads(self) -> None:
        """Count refaults from 0."""
        self.block_map.forget_reads()

    def prepared(self, first: int, end: int) -> list[tuple[int, int]]:
        """The [start, end) ranges of blocks within [first, end) whose map pages have memory."""
        end = min(end, self._capacity)
        ranges: list[tuple[int, int]] = []
        while first < end:
            page = first >> _PAGE_SHIFT
            found = self._pages.find(_WITH, page, ((end - 1) >> _PAGE_SHIFT) + 1)
            if found < 0:
                break
            stop = self._pages.find(_WITHOUT, found, self._map_pages)
            stop = self._map_pages if stop < 0 else stop
            start, first = max(first, found << _PAGE_SHIFT), min(end, stop << _PAGE_SHIFT)
            ranges.append((start, first))
        return ranges

    def give_back_pages(self, first: int, end: int, settle: Callable[[], None]) -> None:
        """Blocks [first, end) are all holes: return the memory of the map pages that hold nothing else. `settle` waits
        until no lane looks at them any more: a page that is touched when it has gone takes memory again."""
        page, end_page = -(-first // PAGE_ENTRIES), min(end, self._capacity) // PAGE_ENTRIES
        runs: list[tuple[int, int]] = []
        while page < end_page and (page := self._pages.find(_WITH, page, end_page)) >= 0:
            stop = self._pages.find(_WITHOUT, page, end_page)
            stop = end_page if stop < 0 else stop
            self._pages[page:stop] = _WITHOUT * (stop - page)
            runs.append((page, stop))
            page = stop
        if runs:
            settle()
        for page, stop in runs:
            punch(self._fd, HEADER_BYTES + page * mmap.PAGESIZE, (stop - page) * mmap.PAGESIZE)

    @property
    def table_bytes(self) -> int:
        """Memory of the header and of the map's pages."""
        return HEADER_BYTES + self._pages[: self._map_pages].count(_WITH) * mmap.PAGESIZE

    def close(self) -> None:
        """Let go of the memory; the file stays."""
        self.block_map.unbind()
        self._capacity = 0
        self.map = memoryview(b"")
        self._regions.clear()
        os.close(self._fd)

    @property
    def _map_pages(self) -> int:
        return self._capacity >> _PAGE_SHIFT

    def _map_file(self, entries: int) -> None:
        pages = -(-min(entries, MAXIMUM_SIZE_BYTES >> BLOCK_SHIFT) // PAGE_ENTRIES)
        length = HEADER_BYTES + pages * mmap.PAGESIZE
        if os.fstat(self._fd).st_size < length:
            os.ftruncate(self._fd, length)
        is_small = length <= MAP_BYTES
        region = extend(self._regions, self._fd, length, MAP_BYTES if is_small else LARGEST_MAP_BYTES, self._place)
        view = memoryview(region)
        self._header = view[:HEADER_BYTES].cast("Q")
        self._signed_header = view[:HEADER_BYTES].cast("q")
        self.map = view[HEADER_BYTES:].cast("Q")
        self._capacity = pages * PAGE_ENTRIES
        if pages > len(self._pages):
            self._outgrown.append(self._pages)
            self._pages = untouched(MAXIMUM_SIZE_BYTES >> BLOCK_SHIFT >> _PAGE_SHIFT)
            self._pages[: len(self._outgrown[-1])] = self._outgrown[-1][:]
        self.block_map.bind(self.map, self._pages, self._header[_SIZE_AT : _MTIME_AT + 1], self._fd)

    def _stored_size(self, home: Home) -> int:
        """Raises StateError for a size that was damaged, or that the file has no map for."""
        size_bytes = unpack_size(self._header[_SIZE_AT])
        if size_bytes is None or size_bytes > MAXIMUM_SIZE_BYTES or size_bytes > self._capacity << BLOCK_SHIFT:
            raise StateError(
                f"the state in {home.describe()} is damaged: {file_name(self.number)} is cut off, or its size is "
                "damaged; restore the directory, or mount with an empty one"
            )
        return size_bytes

    def _find_pages(self) -> None:
        """Learn from the file system which pages of the map have memory."""
        position, end = HEADER_BYTES, HEADER_BYTES + self._capacity * _ENTRY_BYTES
        while position < end:
            try:
                start = os.lseek(self._fd, position, os.SEEK_DATA)
            except OSError:
                return  # ENXIO: no data from here on
            position = min(os.lseek(self._fd, start, os.SEEK_HOLE), end)  # a damaged file may go on behind its map
            for page in range((start - HEADER_BYTES) // mmap.PAGESIZE, (position - HEADER_BYTES) // mmap.PAGESIZE):
                self._pages[page] = 1


def clamp_time_ns(time_ns: int) -> int:
    """Returns the time that is stored for this one: the nearest there is, as the kernel does for other file systems."""
    return min(max(time_ns, EARLIEST_S * 10**9), LATEST_S * 10**9)


def pack_size(size_bytes: int) -> int:
    """The size word of a header."""
    return size_bytes | _size_check(size_bytes) << _SIZE_BITS


def unpack_size(word: int) -> int | None:
    """The size in bytes; None when the word was damaged."""
    size_bytes = word & _SIZE_MASK
    return size_bytes if word == pack_size(size_bytes) else None


def _size_check(size_bytes: int) -> int:
    return ((size_bytes + 1) * _SIZE_MIX & 0xFFFF_FFFF_FFFF_FFFF) >> _SIZE_BITS


def _header_digest(number: int, domain_key: int) -> int:
    return digest(number.to_bytes(8, "little") + domain_key.to_bytes(8, "little"), _MAGIC)


def file_name(number: int) -> str:
    """The name of a volume's file in the state directory."""
    return f"volume-{number}"


def is_volume(name: str) -> bool:
    """Is a file of the state directory with this name a volume's?"""
    return name.startswith("volume-")


def read_header(home: Home, name: str) -> tuple[int, int] | None:
    """(number, domain key) of the volume file `name`; None if a killed process had not finished making it.

    Raises StateError when it is something else.
    """
    fd = home.open(name)
    try:
        page = os.pread(fd, HEADER_BYTES, 0).ljust(HEADER_BYTES, b"\0")
    finally:
        os.close(fd)
    if not any(page):
        return None
    header = memoryview(page).cast("Q")
    number, key = header[_NUMBER_AT], header[_DOMAIN_AT]
    is_whole = name == file_name(number) and header[_DIGEST_AT] == _header_digest(number, key)
    if not header[_MAGIC_AT] and (is_whole or not header[_DIGEST_AT]):  # it is stored last
        return None
    if header[_MAGIC_AT] != _MAGIC or not is_whole:
        raise StateError(
            f"{home.describe()}/{name} is no map of a volume; restore the directory, or mount with an empty one"
        )
    return number, key
