"""What changes tables that are shared with the next process: commit of a batch, and counts of rows.

All of it is called with the store lock, and none of it can fail once it has begun to store. Rows that nothing points at
any more can be taken again at once; what else was let go, the caller has the pool take back (store/state/pool.py).
"""

from collections.abc import Callable, Sequence
from typing import Final

from blockstore.plane.blocks.encode import Batch
from blockstore.plane.sync.lock import StoreLock
from blockstore.plane.tables.block_map import BlockMap
from blockstore.plane.tables.free_rows import ChangedRows, FreeRows
from blockstore.plane.tables.log import Log
from blockstore.plane.tables.tables import Tables

COMMITTED: Final[int]
STALE: Final[int]
"""What encode has looked up is not so any more: encode again."""
NEEDS_PYTHON: Final[int]
"""There is no room in a table, an index, a map or the pool, or nobody has taken back what was let go; or the records
could not be written."""

DROPPED: Final[int]
"""The volume is deleted: nobody can read what would be written."""

class Commit:
    """Of one store."""

    def __init__(self, tables: Tables, free_rows: FreeRows, changed: ChangedRows, log: Log) -> None: ...
    def commit(
        self,
        batch: Batch,
        targets: Sequence[tuple[BlockMap, int, int]],
        reserved_segments: int,
        *,
        is_reserved: bool = False,
    ) -> int:
        """Lets the blocks of the batch be those of each (map, first block, count), one after the other. Appends its
        records, fills rows, enters them in both indexes, publishes the map entries, and lets go of the rows that these
        replace. `reserved_segments` of the pool are kept free; with `is_reserved` both indexes have room, however full.

        Returns COMMITTED, or STALE or NEEDS_PYTHON, and then nothing has changed. Raises ValueError for other counts of
        blocks."""

    def write(
        self,
        batch: Batch,
        block_map: BlockMap,
        first: int,
        end_bytes: int,
        reserved_segments: int,
        lock: StoreLock | None,
    ) -> int:
        """Encodes what was loaded, and lets it be the blocks of a volume from `first` on; its size becomes `end_bytes`
        if it is less. Without the interpreter's lock. Waits for the store lock to commit; who has it gives None.

        Returns COMMITTED, or NEEDS_PYTHON or DROPPED, and then nothing has changed."""

def call_at_points(function: Callable[[], None] | None) -> None:
    """For the test of death at any instruction: calls this before each store to shared memory in this module."""
