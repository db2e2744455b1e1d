"""Counts anew, at a start, what follows from maps and rows: counts, dependents, rows that are free, live bytes.

Each function but the last works on a range [first, end) and lets go of the interpreter's lock: several threads work on
ranges of one table, while nobody else uses the store. In this order, each only when the one before has ended for all
ranges: count_entries, set_counts, count_dependents, free_unneeded; then list_free and count_records; then list_unused.
What lies beyond the end of a table is left out. Damaged words are never followed beyond a table.
"""

from array import array

from blockstore.plane.buffers import Bytes, I64s, U32s, U64s
from blockstore.plane.tables.block_map import BlockMap
from blockstore.plane.tables.soundness import Places
from blockstore.plane.tables.tables import Tables

def count_entries(
    tables: Tables, places: Places, block_map: BlockMap, first: int, end: int, counts: U32s
) -> tuple[int, int, int, int]:
    """Adds the sound map entries of blocks [first, end) that point at rows to `counts[row]`. Returns how many entries
    are not holes, how many are LOST, how many are due, and how many are not sound and were not counted (soundness.pyi).
    Raises ValueError when there are fewer counts than rows."""

def set_counts(tables: Tables, counts: U32s, first: int, end: int) -> None:
    """Stores these counts for rows, and 0 dependents; frees patches that no map entry points at. Raises ValueError when
    there are fewer counts than rows."""

def count_dependents(tables: Tables, first: int, end: int) -> None:
    """Adds the patches among these rows to the dependents of their references."""

def free_unneeded(tables: Tables, first: int, end: int) -> tuple[int, int]:
    """Frees rows that neither map entries nor patches need. Returns how many of the range are in use, and the number
    behind that of the last one, 0 for none."""

def list_free(tables: Tables, first: int, end: int, before: int, free: U32s) -> None:
    """Stores the free rows of the range in their places of `free`, which is to have all of them, the highest first;
    `before` are lower than those of the range. Rows that `free` is too short for are left out."""

def count_records(
    where: U64s,
    first: int,
    end: int,
    segment_bytes: I64s,
    piece_bytes: I64s,
) -> None:
    """Adds the sizes in bytes of the records at these location words to the segments and pieces that they are in."""

def list_unused(segment_bytes: I64s, has_memory: Bytes) -> tuple[array[int], list[tuple[int, int]]]:
    """Stores for each segment 1 if it has live bytes, 0 if it has none. Returns the numbers (u32) of those that have
    none, the highest first, and the ranges [first, end) that they make up. Raises ValueError when `has_memory` is not
    as long as `segment_bytes`."""
