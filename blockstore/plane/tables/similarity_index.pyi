"""The similarity index: feature -> a recent row that had it. A table of hints, allowed to forget and to be wrong.

One slot a feature, the last writer stays; 8 bits that depend on the feature and on the row's content are kept as a tag,
so that 1 of 256 foreign features passes, and 1 of 256 rows that have become another content's. A hint is only used if
its row is live, in the same domain and no patch itself; and what it is worth is decided by making the patch. So nothing
here needs repair after a crash, nothing is ever deleted, and no order of stores matters to who opens the state.

The table doubles a part at a time. A feature's slot is then either the old one or its copy in the new half, so no hint
is lost. Written by ingest under the store lock; read without it.
"""

from array import array
from typing import Final, Protocol

from blockstore.plane.buffers import U32s
from blockstore.plane.tables.tables import Tables

FIRST_SLOTS: Final[int]
SLOTS_PER_ROW: Final[int]
"""The least number of slots for a row that has features. There are four, so some older hints are forgotten; one
slot costs 5 bytes, and a table that just doubled has twice as many: 20 bytes a row at most."""

class Array(Protocol):
    """Integers of one type that never move (store/state/shared_array.py)."""

    items: memoryview
    capacity: int

    def grow(self, capacity: int) -> None: ...
    def close(self) -> None: ...

class SimilarityIndex:
    """`entered` counts the rows that were given features."""

    entered: int

    def __init__(self, rows: Array, tags: Array, tables: Tables, most_dependents: int) -> None:
        """Takes what the arrays have, of 32 and of 8 bits. A row with `most_dependents` patches is no candidate."""

    @property
    def size_bytes(self) -> int: ...
    @property
    def slots(self) -> int:
        """Slots in use."""

    def reserve(self, entries: int, live: int) -> None:
        """Keeps SLOTS_PER_ROW slots for a row when so many more are entered beside `live` rows. While the table
        doubles, a call for a slice of blocks takes it a few thousand slots further. Raises OutOfRoom."""

    def candidates(self, features: U32s, domain: int, own: U32s | None = None) -> tuple[array[int], array[int]]:
        """Returns for each line of features the row that most of them hint at, and how many do; the row is 0 where none
        does, and where that row may not be the reference of a new patch in the domain. With `own`, those are the rows
        that have these features, and hints at them do not count. Raises ValueError for another shape.

        Ingest and re-encoding ask in compiled code only; this is what the test compares with a plain table."""

    def enter(self, features: U32s, rows: U32s) -> None:
        """Lets these rows, whose digests are set, have these features from now on. Raises ValueError for another shape,
        or no row."""

    def close(self) -> None:
        """Closes both arrays; nothing is found afterwards."""
