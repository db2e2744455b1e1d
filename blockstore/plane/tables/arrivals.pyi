"""The table of arrivals, and the map entries that are places in it. Who has the table, and what it is for, stands in
store/remote/arrivals.py.

An arrival is four 64-bit words: where its record is in the pieces of its source (a location word but for the bit that
says so), the two of its digest, and the number of its source, never 0. What is read is taken for damaged. All but
`record_words` and `highest` are called with the store lock; what may take longer lets go of the interpreter's.
"""

from array import array
from collections.abc import Callable
from typing import Final

from blockstore.plane.buffers import Bytes, U32s, U64s
from blockstore.plane.tables.tables import Tables

MAXIMUM_DUE: Final[int]
"""Places that a map entry can name."""

def used_arrivals(table: U64s) -> int:
    """Returns the number behind the last arrival of which anything was stored."""

def sources_of(table: U64s, count: int) -> set[int]:
    """Returns the numbers of the sources of the first `count` arrivals. Raises ValueError when the table is shorter."""

def enter_arrivals(table: U64s, first: int, source: int, where: U64s, digests: Bytes) -> None:
    """Stores arrivals of one source from place `first` on; `digests` has 16 bytes for each. They are stored in order,
    and of each the source first: a process that is killed leaves none of source 0. Raises ValueError when they do not
    fit, and then nothing has changed."""

def due_entries(places: U32s, first: int) -> tuple[array[int], int]:
    """Returns map entries (u64) of blocks that have these places, counted from 1, among the arrivals from `first` on;
    holes for 0. And how many are no holes. Raises ValueError for a place that no entry can name."""

def due_blocks(entries: U64s, arrivals: int, first: int) -> list[int]:
    """Returns the numbers of the blocks that are due, of those from `first` on that have these map entries: whose entry
    is undamaged, and names one of so many arrivals."""

def is_any_due(entries: U64s, arrivals: int) -> bool:
    """Returns whether there is one among them."""

def rows_of_domain(tables: Tables, domain: int, first: int, end: int) -> list[int]:
    """Returns the rows in use of this domain, of rows [first, end)."""

def record_words(sizes: Bytes, first_piece: int) -> array[int]:
    """Returns a word (u64) for each of these sizes (u16, little endian): where such a record lies when they follow each
    other from the beginning of a piece on, as many in each as a segment has room for, and that it is dense, or raw if
    it is as long as a block. Raises ValueError for a size of 0 or above that of a block, and when pieces run out."""

def highest(numbers: U32s) -> int:
    """Returns the largest of these numbers; 0 for none."""

def call_at_points(function: Callable[[], None] | None) -> None:
    """For the test of death at any instruction: calls this before each store to shared memory in this module."""
