"""Small writes that come together are stored together: a slice of the store costs much, whatever is in it.

The dirty pages of a VM are scattered, and the kernel sends each run of them as a request of its own: one block in a
slice costs ten times what it costs among many (`scripts/bench dirty`). All are of one domain, and each is answered when
all are stored. What finds no room is none of this module's: jobs.py has it wait.
"""

from __future__ import annotations

import time
from typing import Final

from blockstore.daemon import fuse_abi as abi
from blockstore.store.geometry import BLOCK_BYTES, BLOCK_SHIFT
from blockstore.store.ingest import SLICE_BLOCKS, Extent
from blockstore.store.store import Store
from blockstore.store.volume import Domain, Volume

SMALL_BYTES: Final = 16 * BLOCK_BYTES
"""A write of more has enough blocks to pay for its slice, and is not worth the copy that joining it takes."""

GATHERED_BYTES: Final = SLICE_BLOCKS * (BLOCK_BYTES + abi.HEAD_BYTES)
"""Behind the first request in the lane's buffer: room for as many small ones as make a slice."""

_IN_BLOCK: Final = BLOCK_BYTES - 1


def is_small(offset: int, size: int) -> bool:
    """Whole blocks, and few of them?"""
    return 0 < size <= SMALL_BYTES and not (offset | size) & _IN_BLOCK


def written(unique: int, size: int) -> bytes:
    """The answer to a write of which all was done."""
    return abi.OUT_U32.pack(abi.OUT_U32.size, 0, unique, size, 0)


class SmallWrites:
    """Those that are to be stored next; their data stay where they are until then."""

    def __init__(self, domain: Domain, most_blocks: int = SLICE_BLOCKS) -> None:
        self.domain = domain
        self.extents: list[Extent] = []
        self._uniques: list[int] = []
        self._blocks_left = most_blocks
        self.started_ns = time.perf_counter_ns()

    def takes(self, volume: Volume, offset: int, size: int) -> bool:
        """Does this one fit in?"""
        return volume.domain is self.domain and is_small(offset, size) and size >> BLOCK_SHIFT <= self._blocks_left

    def add(self, unique: int, volume: Volume, offset: int, data: memoryview) -> None:
        """One more, which `takes` has let in."""
        self.extents.append(Extent(volume, offset >> BLOCK_SHIFT, data))
        self._uniques.append(unique)
        self._blocks_left -= self.extents[-1].blocks

    @property
    def is_full(self) -> bool:
        return self._blocks_left <= 0

    def store(self, store: Store) -> bool:
        """Store them all; False when there is no room, and then none was stored. Raises what the store raises."""
        return store.write_together(self.extents)

    def answers(self) -> list[bytes]:
        """For each: all of it was written."""
        return [written(unique, len(extent.data)) for unique, extent in zip(self._uniques, self.extents, strict=True)]

    def failures(self, code: int) -> list[bytes]:
        """For each: it has failed with this errno."""
        return [abi.failure(unique, code) for unique in self._uniques]

    def singly(self) -> list[tuple[int, Volume, int, bytes]]:
        """(unique, volume, offset, data) of each, copied, for those that have to wait."""
        return [
            (unique, extent.volume, extent.first << BLOCK_SHIFT, bytes(extent.data))
            for unique, extent in zip(self._uniques, self.extents, strict=True)
        ]
