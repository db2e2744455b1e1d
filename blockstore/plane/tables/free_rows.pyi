"""Which rows are free, and whose counts change while they are compared with the maps.

Both belong to Rows (store/state/rows.py) and are used with the store lock: compiled code takes rows and frees them in
commit (commit.pyi), Python at a start and in repair.
"""

from array import array

from blockstore.plane.buffers import Bytes, U32s
from blockstore.plane.tables.tables import Tables

class FreeRows:
    """A stack of free rows, with a place for each row that there is: to free a row cannot fail."""

    next_row: int
    """No row from here on was ever used."""
    in_use: int
    """Rows that were taken and not freed."""
    left: int
    """Rows that can be taken."""

    def __init__(self) -> None: ...
    def __len__(self) -> int:
        """Returns how many rows below `next_row` are free."""

    def numbers(self) -> list[int]:
        """Returns these rows, the one that was freed last at the end."""

    def grow(self, capacity: int) -> None:
        """Lets there be so many rows, no fewer than before. Raises OutOfRoom when there is no memory for the stack, and
        then nothing has changed."""

    def reset(self, next_row: int, rows: U32s) -> None:
        """At a start: these rows below `next_row` are free, and none else."""

    def take(self, count: int) -> array[int]:
        """Takes so many rows. Raises ValueError when fewer are left."""

    def give_back(self, rows: U32s) -> None:
        """Frees rows whose words are 0 already. Raises ValueError for a row that was never taken, and then nothing has
        changed."""

    def clear(self, tables: Tables, rows: U32s) -> None:
        """Frees rows that nothing points at. Their words become 0 first, so that nothing can find them. Raises
        ValueError for a row that was never taken, and then nothing has changed."""

class ChangedRows:
    """Marks of the rows whose counts have changed since `watch`."""

    def __init__(self) -> None: ...
    def watch(self, marks: Bytes | None) -> None:
        """Has changed rows marked in this array, by row, with 1 from now on, those of them that have a place in it;
        nowhere if it is None, which may also be said without the store lock. Raises BufferError for an array that
        cannot be written, and then nothing has changed."""
