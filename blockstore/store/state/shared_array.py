"""A growable array of one integer type in a file that is mapped shared, and never moves.

`items` shows its elements. Growing puts a longer view in its place; the old ones go on to show the elements that they
had.
"""

from __future__ import annotations

import mmap
import os
from typing import Final, Literal

from blockstore.errors import OutOfRoom
from blockstore.store.state.home import Home, allocate
from blockstore.store.state.mapping import map_region

Typecode = Literal["B", "H", "I", "Q"]

_WIDTH_BYTES: Final = {"B": 1, "H": 2, "I": 4, "Q": 8}


class SharedArray:
    """`capacity` elements of `typecode` (B, H, I or Q), at most `most`; zero where never written."""

    items: memoryview

    def __init__(self, home: Home, name: str, typecode: Typecode, capacity: int, *, most: int) -> None:
        """Maps the file with all that it holds, at least `capacity` elements. Raises OutOfRoom, OSError."""
        self.name = name
        self._place = home.describe()
        self._typecode = typecode
        self._width = _WIDTH_BYTES[typecode]
        self._fd = home.open(name)
        self.capacity = 0
        try:
            present = os.fstat(self._fd).st_size // self._width
            # A file that is longer than it can have become is damaged, and opened nevertheless: its reader says so.
            most = max(most, capacity, present)
            self._region = map_region(self._fd, _whole_pages(most * self._width), self._place)
            self.grow(max(capacity, present))
        except BaseException:
            os.close(self._fd)
            raise

    @property
    def size_bytes(self) -> int:
        return self.capacity * self._width

    def grow(self, capacity: int) -> None:
        """Make room for `capacity` elements. Raises OutOfRoom, and then nothing has changed."""
        if capacity <= self.capacity:
            return
        size_bytes = _whole_pages(capacity * self._width)
        if size_bytes > self._region.reserved_bytes:
            most = self._region.reserved_bytes // self._width
            raise OutOfRoom(
                f"{self.name} under {self._place} has {most} entries, and cannot have more; delete memory files"
            )
        old_bytes = self.capacity * self._width
        allocate(self._fd, old_bytes, size_bytes - old_bytes, self._place)
        self._region.extend(size_bytes)
        self.items = memoryview(self._region).cast(self._typecode)
        self.capacity = size_bytes // self._width

    def empty(self) -> None:
        """Gives all memory back: `capacity` is 0 until it grows anew, from zeros. No older view may be touched any
        more. Raises OutOfRoom, OSError, and then nothing has changed."""
        region = map_region(self._fd, self._region.reserved_bytes, self._place)
        os.ftruncate(self._fd, 0)
        self._region, self.items, self.capacity = region, memoryview(region).cast(self._typecode), 0

    def close(self) -> None:
        """Let go of the memory; the file stays. Idempotent."""
        if self._fd < 0:
            return
        self.items = memoryview(b"")
        del self._region
        self.capacity = 0
        os.close(self._fd)
        self._fd = -1


def _whole_pages(size_bytes: int) -> int:
    return -(-size_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
