"""A growable array of one integer type in a file that is mapped shared.

`items` (a memoryview) is for single elements on hot paths, `array` (numpy) for whole columns; both look at
the same memory. Growing replaces both, so nobody may keep them across a call that can grow the array.
"""

from __future__ import annotations

import mmap
import os
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from blockstore.store.home import Home, allocate

Typecode = Literal["B", "H", "I", "Q"]

_DTYPES: Final = {"B": np.uint8, "H": np.uint16, "I": np.uint32, "Q": np.uint64}


class SharedArray:
    """`capacity` elements of `typecode` (B, H, I or Q), zero where never written."""

    items: memoryview
    array: npt.NDArray[Any]

    def __init__(self, home: Home, name: str, typecode: Typecode, capacity: int) -> None:
        self.name = name
        self._place = home.describe()
        self._typecode = typecode
        self._width = np.dtype(_DTYPES[typecode]).itemsize
        self._fd = home.open(name)
        self.capacity = 0
        try:
            present = os.fstat(self._fd).st_size // self._width
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
        size_bytes = -(-capacity * self._width // mmap.PAGESIZE) * mmap.PAGESIZE
        old_bytes = self.capacity * self._width
        allocate(self._fd, old_bytes, size_bytes - old_bytes, self._place)
        mapping = mmap.mmap(self._fd, size_bytes)
        self.items = memoryview(mapping).cast(self._typecode)
        self.array = np.frombuffer(mapping, dtype=_DTYPES[self._typecode])
        self.capacity = size_bytes // self._width

    def clear(self) -> None:
        """Set every element to zero."""
        self.array[:] = 0

    def close(self) -> None:
        """Let go of the memory; the file stays."""
        self.items = memoryview(b"")
        self.array = np.empty(0, dtype=_DTYPES[self._typecode])
        self.capacity = 0
        os.close(self._fd)
