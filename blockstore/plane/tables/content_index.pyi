"""The content index: digest -> row. Open addressing over 32-bit row numbers, nothing else.

A slot holds only a row number; whether it matches is decided by the row's own digest and domain, and in the end by
comparing bytes. So a freed row needs no deletion: its slot keeps the run together and matches nothing (its word is 0),
or matches rightly again when the row is reused. Stale slots vanish when their part of the index is moved.

It takes 4 bytes a slot: 5.9 to 7.7 bytes for each row, and 4 KiB. It is written by ingest under the store lock, and
rebuilt at each start, so its file may hold anything, and no order of stores matters to whoever opens the state of a
killed process.
"""

from collections.abc import Callable
from typing import Any, Protocol

from blockstore.plane.buffers import U32s, U64s
from blockstore.plane.tables.tables import Tables

FIRST_SLOTS: int
MOST_LOAD: float
"""In ordinary use; of slots that are not empty to all. A miss looks at five slots then."""

LARGEST_LOAD: float
"""Bearable while the file system is full."""

Share = Callable[[Callable[[int, int], Any], int], list[Any]]

class Array(Protocol):
    """Where slots are: 32-bit words that never move (store/state/shared_array.py)."""

    items: memoryview
    capacity: int

    def grow(self, capacity: int) -> None: ...
    def close(self) -> None: ...

class ContentIndex:
    """`rebuild` enters what the rows say. Before it the index finds what is in the array by chance, or nothing."""

    def __init__(self, array: Array, tables: Tables) -> None: ...
    @property
    def size_bytes(self) -> int:
        """Memory of the slots."""

    @property
    def used(self) -> int:
        """Slots that are not empty: those of live rows, and stale ones."""

    @property
    def length(self) -> int:
        """Slots in which digests have their homes; while the index grows, those of the greater length."""

    @property
    def is_growing(self) -> bool: ...
    def reserve(self, entries: int, live: int) -> None:
        """Makes sure that so many entries can be entered beside `live` rows. If the index is growing, it moves a few
        thousand slots, which takes a fifth of a millisecond. Raises OutOfRoom, MemoryError."""

    def rebuild(self, share: Share = ...) -> None:
        """Enters all live rows anew, while nobody else uses the store. Raises OutOfRoom.

        `share` calls what it is given for ranges that make up the whole, in several threads if it likes, and returns
        the results; without it, this thread does all. Which of two rows is found first may depend on the threads."""

    def clear_part(self, first: int, end: int) -> None:
        """Empties these slots, for `rebuild`."""

    def enter_part(self, first: int, end: int) -> int:
        """Enters the live rows of this range, for `rebuild`, beside other threads that do so. Returns how many."""

    def found(self, digests: U64s, domain: int) -> list[int]:
        """Returns the places of those digests that a live row of the domain has."""

    def find(self, digest: int, domain: int) -> list[int]:
        """Returns the live rows of the domain that have this digest: one, or several after a collision."""

    def enter(self, digests: U64s, rows: U32s) -> None:
        """Enters rows that have these digests; `reserve` came before. Raises ValueError for different numbers of them.

        A row is left out when PROBE_LIMIT slots from its home on are in use, which digests that were not made up never
        come to; its content is stored again when it is written again."""

    def close(self) -> None:
        """Closes the array; nothing is found afterwards."""
