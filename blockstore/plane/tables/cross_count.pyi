"""Compares what maps, rows and records say of each other, for verification (store/checks).

To be called with the store lock; all functions let go of the interpreter's while they work. They read the tables, and
write nothing but the buffers that they are given. Damaged words are never followed beyond a table.
"""

from typing import Final

from blockstore.plane.buffers import Bytes, U32s
from blockstore.plane.tables.block_map import BlockMap
from blockstore.plane.tables.soundness import Places
from blockstore.plane.tables.tables import Tables

# What `judge_blocks` says of a block; 0 of others.
DAMAGED_ENTRY: Final[int]
"""Its map entry is not sound (soundness.pyi)."""
DAMAGED_ROW: Final[int]
"""Its row is marked."""
LOST_BLOCK: Final[int]
DUE_BLOCK: Final[int]

# What `compare_counts` says of a row, or both; 0 of others.
OTHER_COUNTS: Final[int]
"""It counts other map entries or patches than there are."""
ORPHAN: Final[int]
"""It is in use, and nothing points at it."""

def judge_blocks(
    tables: Tables, places: Places, block_map: BlockMap, first: int, damaged_rows: Bytes, verdicts: Bytes
) -> int:
    """Stores a verdict for each block from `first` on, as many as `verdicts` has; 0 for those whose map entries have no
    memory. `damaged_rows` has a mark by row. Returns how many of these blocks cannot be read; those that are due are
    not among them. Raises ValueError when there is no verdict to store, or no mark."""

def count_pointers(tables: Tables, block_map: BlockMap, first: int, end: int, counts: U32s) -> None:
    """Adds the map entries of blocks [first, end) that point at rows to `counts[row]`; rows that it is too short for
    are left out. An entry whose check is not that of its row points nowhere; else it does, whatever the row is like,
    as commit counts (plane/blocks/commit.pyx)."""

def count_patches(tables: Tables, first: int, end: int, dependents: U32s) -> None:
    """Adds the patches among rows [first, end) to `dependents` by reference; those that it is too short for are left
    out."""

def compare_counts(
    tables: Tables, first: int, counts: U32s, dependents: U32s, changed_rows: Bytes, verdicts: Bytes
) -> int:
    """Stores a verdict for each row from `first` on, as many as `verdicts` has: whether it counts as many map entries
    and patches as `counts` and `dependents` say by row. A row that is marked in `changed_rows` is of no concern.
    Returns how many of the verdicts are not 0. Raises ValueError for rows that there are not, in any of these."""

def rows_that_need(tables: Tables, piece: int, first: int, found: U32s) -> int:
    """Looks at as many rows from `first` on as `found` has places, and stores there, in ascending order, those whose
    records are in this piece of the tier, and patches whose references are. Returns how many. Raises ValueError for
    rows that there are not."""
