"""Counts what the blocks of a map and the records of rows are, by kind, for the census (store/accounting/census.py).

To be called with the store lock, but for `count_encodings`; all functions let go of the interpreter's, and write
nothing but the sums and the RowUsers that they are given. What lies beyond the end of a table is left out.

Snapshots are counted apart. First `count_snapshot_entries` for the maps of all snapshots, then `count_blocks` for the
maps of all VMs, which notes what these need, then `count_record_bytes`. Without snapshots there are no RowUsers.
"""

from blockstore.plane.buffers import F64s, I64s
from blockstore.plane.tables.block_map import BlockMap
from blockstore.plane.tables.tables import Tables

class RowUsers:
    """Of each row: how many map entries of snapshots point at it, and whether a VM needs it: has it, or has a patch
    against it. Four bytes a row, of which those have memory that are written."""

    def __init__(self, rows: int) -> None:
        """Rows from this id on are nobody's snapshot's. Raises MemoryError."""

def count_snapshot_entries(block_map: BlockMap, first: int, end: int, most_entries: int, users: RowUsers) -> int:
    """Notes blocks [first, end) of a snapshot's map in `users`. Looks at no more than `most_entries` map entries, as
    `count_blocks` does, and returns the same."""

def count_blocks(
    tables: Tables,
    block_map: BlockMap,
    first: int,
    end: int,
    most_entries: int,
    blocks: I64s,
    paid_bytes: F64s,
    users: RowUsers | None = None,
) -> int:
    """Adds blocks of [first, end) that are no holes to `blocks` by class (CLASSES), and for each the bytes of its
    record, divided by the map entries that share it, to `paid_bytes` by class of record (RECORDS). Looks at no more
    than `most_entries` map entries; those without memory do not count. Returns the block to go on with, or `end`.

    With `users` this is the map of a VM: entries of snapshots do not count among those that share a record, and what
    the VM needs is noted. A block that is lost or damaged is `raw` without a record, one that is due is `paged`, as
    classes.py names them. Raises ValueError when there are not as many sums as classes."""

def count_record_bytes(
    tables: Tables,
    first: int,
    end: int,
    record_bytes: I64s,
    users: RowUsers | None = None,
    snapshot_bytes: I64s | None = None,
) -> int:
    """Adds the bytes of the records of rows [first, end) to `record_bytes` by class (RECORDS). With `users` those of
    rows that no VM needs are added to `snapshot_bytes` instead; returns how many these were. Raises ValueError when
    there are not as many sums as classes."""

def count_encodings(tables: Tables, first: int, end: int, rows: I64s) -> None:
    """Adds rows [first, end) that are in use to `rows`, by eight times their domain's index and their encoding; those
    of domains that it is too short for are left out. Needs no lock: a row that is being changed counts as it was or as
    it is."""
