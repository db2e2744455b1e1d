"""Moves records to the head of the log, so that the segments in which they were can go back to the host."""

from blockstore.plane.moves.placed_rows import PlacedRows
from blockstore.plane.tables.log import Log

def compact(log: Log, placed: PlacedRows, most_rows: int) -> int:
    """Takes at most so many rows of a sorted list, and appends the records of those that are still in its places, as
    they are: whether one is damaged is for its reader to find out. With the store lock, and without the interpreter's.

    Returns how many it took. It stops early at the end of the list, and where the next record fits neither in the head
    nor in a spare segment, or could not be written: `error` of the log says why. The caller has the pool take back what
    was let go, before as well. Raises ValueError when nobody has, MemoryError, and then nothing has changed."""
