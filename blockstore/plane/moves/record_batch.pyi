"""Records that move together between the pool and the tier, or from pieces into one.

    pick           with the store lock: rows of a list, their words, and the generations of their places
    gather         without it: the records, one behind the other
    drop_changed   with the store lock: what is not what was picked any more stays where it is
    publish        with the store lock, after that: rows have the records that the tier has acknowledged,
    publish_back   or those that are appended to the pool

None of them needs the interpreter's lock for its work. Between pick and gather a batch is inside the epochs: no segment
is given back to the host meanwhile.
"""

from collections.abc import Mapping

from blockstore.plane.buffers import I64s
from blockstore.plane.moves.placed_rows import PlacedRows
from blockstore.plane.sync.epochs import Epochs
from blockstore.plane.tables.log import Log

class RecordBatch:
    """For one thread. Its length is the number of records that are still to be moved."""

    data: bytes
    """What was gathered."""

    size_bytes: int
    """Of the records that are still to be moved."""

    def __init__(
        self,
        log: Log,
        epochs: Epochs,
        placed: PlacedRows,
        pieces: I64s,
        mended: int,
        most_rows: int,
        most_bytes: int,
    ) -> None:
        """Picks: takes at most `most_rows` rows of a sorted list, and of these the ones whose records are still in its
        places, as many as are `most_bytes` (at most a segment) together; with the store lock. `pieces` are the
        generations of pieces, by number; `mended` is how often damage was mended so far. It may be empty though the
        list goes on. Raises ValueError, MemoryError."""

    def __len__(self) -> int: ...
    def gather(self, contents: Mapping[int, bytes]) -> None:
        """Copies the records from the pool, and from these contents of pieces, by place; what was gathered before
        stays. What a damaged word names beyond their ends is zeros. Raises KeyError for a piece that is not among them,
        MemoryError."""

    def drop_changed(self, pieces: I64s, mended: int) -> None:
        """Keeps the records of rows that have the same word as when they were picked, in a place of the same
        generation: a record never changes while its place has one, but where damage is mended, and after that none is
        kept. With the store lock. Raises ValueError for what was not gathered."""

    def publish(self, piece: int) -> None:
        """Lets the rows have their records in this piece, whose content is `data`, and gives up the old ones. With the
        store lock, right after `drop_changed`. The caller has the pool take back what was let go, before as well.
        Raises ValueError when nobody has, or for what was not gathered, and then nothing has changed."""

    def publish_back(self) -> bool:
        """Appends the records that were gathered to the pool, lets the rows have them, and gives up the old ones; else
        as `publish`. Returns False when the others found neither room nor a spare segment, or `error` of the log tells
        why they could not be written. Raises MemoryError, and then nothing has changed."""
