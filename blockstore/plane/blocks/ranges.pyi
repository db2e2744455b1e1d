"""Changes of ranges of a volume's map that carry no data: blocks become holes, or those of another range.

All of it is called with the store lock, lets go of the interpreter's, and cannot fail once it has begun to store. Map
entries change before the counts of what they pointed at go down, and after those of what they point at went up, so that
a process killed in between leaves rows too many, never one too few. Rows that nothing points at any more can be taken
again at once; what else was let go, the caller has the pool take back.
"""

from collections.abc import Callable

from blockstore.plane.blocks.commit import Commit
from blockstore.plane.buffers import U64s
from blockstore.plane.tables.block_map import BlockMap

def discard(commit: Commit, block_map: BlockMap, first: int, count: int) -> None:
    """Lets `count` blocks from `first` on be holes, and lets go of the rows that they pointed at. Those behind the end
    of the map, and those for which it has no memory, are holes already. Raises ValueError for too many at once, and
    then nothing has changed."""

def clone(commit: Commit, source: BlockMap, first: int, target: BlockMap, to: int, count: int) -> None:
    """Lets `count` blocks of the target from `to` on be those of the source from `first` on, holes where that has none,
    and lets go of the rows that they pointed at. A damaged entry is copied as it is. The ranges do not overlap.

    Raises ValueError for too many at once, and when the target's map does not cover all of them, or gets no memory;
    then nothing has changed."""

def replace(block_map: BlockMap, first: int, entries: U64s) -> None:
    """Lets the blocks from `first` on have these entries. Counts stay as they are: what they had, and what they get, is
    counted nowhere. Raises ValueError when the map does not cover all of them, or gets no memory; then nothing has
    changed."""

def clear(block_map: BlockMap, first: int, end: int) -> None:
    """Lets all blocks from `first` on, before `end`, be holes. Counts stay as they are."""

def call_at_points(function: Callable[[], None] | None) -> None:
    """For the test of death at any instruction: calls this before each store to shared memory in this module."""
