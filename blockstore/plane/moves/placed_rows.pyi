"""Finds the rows whose records lie in some places: segments of the pool, or pieces of the tier.

What is to be moved out of these places (compaction.pyi, record_batch.pyi) is listed here first, in a look at all rows
that is taken in parts. A place is the upper bits of a location word (store/state/location.py).
"""

from collections.abc import Sequence

from blockstore.plane.tables.tables import Tables

class PlacedRows:
    """Of one store. For one thread at a time."""

    @property
    def left(self) -> int:
        """How many rows of the list were not taken yet."""

    def __init__(self, tables: Tables) -> None:
        """Lists nothing. Raises MemoryError."""

    def numbers(self) -> list[int]:
        """Returns these rows in order."""

    def begin(self, places: Sequence[int]) -> None:
        """Forgets the list, and looks for rows in these places from now on. Raises MemoryError, and then nothing has
        changed."""

    def scan(self, next_row: int, most_rows: int) -> bool:
        """Looks at so many more rows below `next_row`. With the store lock, and without the interpreter's. Returns
        whether there are others. Raises MemoryError, and then has looked at none of them."""

    def sort(self) -> None:
        """Lists what was found in the order of places, and those of one place by where in it the record was when it was
        looked at. Needs no lock, and works without the interpreter's. Raises MemoryError, and then nothing has
        changed."""

    def leave_out(self, place: int) -> None:
        """Passes over all records in this place from now on."""
