"""How files are mapped: with their largest size reserved as addresses, so that they never move (plane/sync/region.py).

A process has 2^47 bytes of addresses, 128 TiB (x86-64 with four levels of page tables). The tables of a store reserve
0.1 TiB, its pool four times its limit (up to 16 TiB), and each volume 64 MiB, or 32 GiB when it is larger than
32 GiB: addresses are enough for 60,000 volumes, as many as vm.max_map_count lets a process map, and 3000 of them large.
"""

from __future__ import annotations

import errno
from typing import Final

from blockstore.errors import OutOfRoom
from blockstore.plane.sync.region import Region
from blockstore.store.state.geometry import HINT
from blockstore.store.state.location import LAST_PIECE

MAXIMUM_ROWS: Final = HINT
"""2^31 contents, 8 TiB before they are encoded, because larger numbers are hints. The columns take 56 GiB of
addresses."""

MAXIMUM_PIECES: Final = LAST_PIECE + 1
"""2^27 of at most a segment; the table takes 1 GiB of addresses."""

MAXIMUM_INDEX_SLOTS: Final = 1 << 32
"""Of either index: two for each row. 16 GiB of addresses with 4 bytes a slot."""

LEAST_POOL_BYTES: Final = 1 << 36
"""64 GiB for a pool with a lower limit than a fourth of it: the limit may be raised."""

POOL_FACTOR: Final = 4
"""A pool reserves so many times its limit, as far as 16 TiB: no file of ext4 is longer, nor mapped further."""

MAP_BYTES: Final = 1 << 26
"""64 MiB for the map of a volume, enough for 32 GiB of memory. Small maps lie close together then, and the kernel
needs a page table of 4 KiB for each, and no more."""

LARGEST_MAP_BYTES: Final = (1 << 35) + (1 << 12)
"""32 GiB and the header page, for the 16 TiB that a volume can have."""


def map_region(fd: int, reserved_bytes: int, place: str, *, writable: bool = True) -> Region:
    """Returns the mapping of a file in `place`, of which nothing is shown yet. Raises OutOfRoom when this process may
    have no more addresses or mappings, OSError."""
    try:
        return Region(fd, reserved_bytes, writable=writable)
    except OSError as error:
        if error.errno != errno.ENOMEM:
            raise
        raise OutOfRoom(
            f"{reserved_bytes >> 20} MiB of addresses for a file under {place} are not to be had; raise the limit of "
            "addresses (`ulimit -v`) or of mappings (`sysctl vm.max_map_count`)"
        ) from None


def extend(regions: list[Region], fd: int, size_bytes: int, reserved_bytes: int, place: str) -> Region:
    """Returns the region of a file that has `size_bytes` by now, extended; the last of `regions`.

    A file that outgrows its region gets another one, of `reserved_bytes`. The regions before it stay: they show the
    same memory to those who have pointers into them. Raises OutOfRoom, OSError.
    """
    if not regions or size_bytes > regions[-1].reserved_bytes:
        regions.append(map_region(fd, reserved_bytes, place))
    regions[-1].extend(size_bytes)
    return regions[-1]
