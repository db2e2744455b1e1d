"""The content index: digest -> row. Open addressing over 32-bit row numbers, nothing else.

A slot holds only a row number; whether it matches is decided by the row's own digest and domain, and in the end
by comparing bytes. So a freed row needs no deletion: its slot keeps the chain together and matches nothing
(its word is 0), or matches rightly again when the row is reused. Stale slots vanish at the next rebuild.

A slice of digests is first looked up at once (`may_have`); what may be there is then probed for singly.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
import numpy.typing as npt

from blockstore.errors import OutOfRoom
from blockstore.store.home import Home
from blockstore.store.rows import Rows
from blockstore.store.shared_array import SharedArray

MAXIMUM_LOAD: Final = 0.65
"""Above this a miss probes more than four slots."""

LARGEST_LOAD: Final = 0.9
"""Bearable for a start on a full file system; the next new block asks for room again."""

_LOAD_AFTER_REBUILD: Final = 0.52
_FIRST_SLOTS: Final = 8192
_WINDOW: Final = np.arange(8)
"""Slots that `may_have` looks at: all but one in forty chains end within."""


class ContentIndex:
    """`slots.items[digest % len]` and on, wrapping round, until an empty slot. Written by ingest only."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self.slots = SharedArray(home, "content-index", "I", _FIRST_SLOTS)
        self.used = 0

    @property
    def size_bytes(self) -> int:
        return self.slots.size_bytes

    def reserve(self, entries: int, rows: Rows) -> None:
        """Make sure that so many entries can be inserted. Raises OutOfRoom. May replace the slots' views."""
        if self.used + entries > MAXIMUM_LOAD * self.slots.capacity:
            self.rebuild(rows, entries)

    def rebuild(self, rows: Rows, entries: int = 0) -> None:
        """Enter all live rows anew, with room for `entries` more."""
        live = np.flatnonzero(rows.where.array).astype(np.uint32)
        wanted = max(int((len(live) + entries) / _LOAD_AFTER_REBUILD), _FIRST_SLOTS)
        if wanted > self.slots.capacity:
            self._grow(wanted, len(live) + entries)
        self.slots.clear()
        _insert_all(self.slots.array, rows.digest.array[live], live)
        self.used = len(live)

    def _grow(self, wanted: int, needed: int) -> None:
        """A new file, because what is in this one would be in the wrong slots; this one, if that has to do."""
        try:
            self._home.remove("content-index")
            fresh = SharedArray(self._home, "content-index", "I", wanted)
        except OutOfRoom:
            if needed > LARGEST_LOAD * self.slots.capacity:
                raise
            return
        self.slots.close()
        self.slots = fresh

    def may_have(self, digests: npt.NDArray[np.uint64], rows: Rows) -> npt.NDArray[np.bool_]:
        """False where no row can have the digest; where True, `find` decides. For most new contents this is all."""
        slots = self.slots.array
        home = (digests % np.uint64(len(slots))).astype(np.int64)
        window = slots.take(home[:, None] + _WINDOW, mode="wrap")
        alike = rows.digest.array.take(window) == digests[:, None]
        return alike.any(axis=1) | window.all(axis=1)  # type: ignore[no-any-return]

    def find(self, digest: int, rows: Rows, domain: int) -> Iterator[int]:
        """The live rows of the domain that have this digest: one, or several after a collision."""
        slots = self.slots.items
        length = len(slots)
        slot = digest % length
        while row := slots[slot]:
            if rows.digest.items[row] == digest and rows.where.items[row] and rows.domain.items[row] == domain:
                yield row
            slot += 1
            if slot == length:
                slot = 0

    def enter(self, digests: npt.NDArray[np.uint64], new_rows: npt.NDArray[np.uint32]) -> None:
        """These rows have these digests from now on; `reserve` came before."""
        slots = self.slots.items
        length = len(slots)
        for slot, row in zip((digests % np.uint64(length)).tolist(), new_rows.tolist(), strict=True):
            while slots[slot]:
                slot += 1
                if slot == length:
                    slot = 0
            slots[slot] = row
        self.used += len(new_rows)

    def close(self) -> None:
        self.slots.close()


def _insert_all(slots: npt.NDArray[np.uint32], digests: npt.NDArray[np.uint64], rows: npt.NDArray[np.uint32]) -> None:
    """Open addressing for a whole column at once: each round, every pending row bids for one slot."""
    length = len(slots)
    position = (digests % np.uint64(length)).astype(np.int64)
    pending = rows
    while len(pending):
        empty = slots[position] == 0
        slots[position[empty]] = pending[empty]  # of several bids for a slot the last one stays
        lost = slots[position] != pending
        pending = pending[lost]
        position = position[lost] + 1
        position[position == length] = 0
