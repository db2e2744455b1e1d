"""Rows that a pass of re-encoding is to try: a look at all rows, in steps.

Wanted are records of at least `minimum_bytes` in cold segments that have one of some encodings, and smaller ones that
need a dictionary with which nothing is encoded any more; and, wherever they lie,
patches that alone keep a reference and are not much smaller than that, for both may be given up. Needs neither the
store lock nor the interpreter's: what was found is looked at again when it is picked (reencode.pyi).
"""

from blockstore.plane.moves.cold_segments import ColdSegments
from blockstore.plane.tables.tables import Tables

class ColdScan:
    """For one thread at a time."""

    pending: int
    """Rows that were found and not taken yet."""
    encodings: int
    """The set that was given to `begin`."""

    def __init__(
        self, tables: Tables, segments: ColdSegments, rows_a_step: int, *, minimum_bytes: int, lone_share: float
    ) -> None:
        """A patch that alone keeps a reference is wanted when it has at least `lone_share` of its bytes. Raises
        MemoryError, and ValueError for no rows a step, or more than 2^24."""

    def begin(self, encodings: int) -> None:
        """Begins anew at the first row, with nothing found. `encodings` has a bit for each encoding that is wanted."""

    def step(self) -> bool:
        """Looks at the next rows. Returns False at the end of the table. Raises ValueError while some are pending."""

    def numbers(self) -> list[int]:
        """Returns the rows that are pending, in the order in which they will be taken."""
