"""Counts what the blocks of a map and the records of rows are, by kind, for the census (store/accounting/census.py).

To be called with the store lock, but for the last; all functions let go of the interpreter's, and write nothing but
the sums that they are given. What lies beyond the end of a table is left out.
"""

from blockstore.plane.buffers import F64s, I64s
from blockstore.plane.tables.block_map import BlockMap
from blockstore.plane.tables.tables import Tables

def count_blocks(
    tables: Tables, block_map: BlockMap, first: int, end: int, most_entries: int, blocks: I64s, paid_bytes: F64s
) -> int:
    """Adds blocks of [first, end) that are no holes to `blocks` by class (CLASSES), and for each the bytes of its
    record, divided by the map entries that share it, to `paid_bytes` by class of record (RECORDS). Looks at no more
    than `most_entries` map entries; those without memory do not count. Returns the block to go on with, or `end`.

    A block that is lost or damaged is `raw` without a record, one that is due is `paged`, as classes.py names them.
    Raises ValueError when there are not as many sums as classes."""

def count_record_bytes(tables: Tables, first: int, end: int, record_bytes: I64s) -> None:
    """Adds the bytes of the records of rows [first, end) to `record_bytes` by class (RECORDS). Raises ValueError when
    there are not as many sums as classes."""

def count_encodings(tables: Tables, first: int, end: int, rows: I64s) -> None:
    """Adds rows [first, end) that are in use to `rows`, by eight times their domain's index and their encoding; those
    of domains that it is too short for are left out. Needs no lock: a row that is being changed counts as it was or as
    it is."""
