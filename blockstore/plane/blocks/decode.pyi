"""From rows and map entries back to blocks, as far as their records are in the pool and undamaged.

Nothing here says why a block cannot be read: what is in a tier, due from another host, or damaged is for Python, which
looks at it again (store/decode.py). A hot path; its benchmark is `scripts/bench engine`.
"""

from blockstore.plane.codec.codec import Codec
from blockstore.plane.tables.block_map import BlockMap
from blockstore.plane.tables.tables import Tables

class Reader:
    """For one thread at a time, which has the store lock, for then no table is bound anew. Writes no table."""

    codec: Codec
    """Its own, for records that are not in the pool."""

    written: int
    """Of the blocks that the last `read` returned, those that were ever written: map entries that are not HOLE."""

    def __init__(self, tables: Tables) -> None:
        """Raises MemoryError."""

    def read(
        self, block_map: BlockMap, first: int, count: int, seed: int, buffer: bytearray | memoryview, at: int
    ) -> int:
        """Writes `count` whole blocks of a volume, from block `first` on, into the buffer from byte `at` on; zeros for
        blocks beyond the end of its map. `seed` is that of its domain. Checks each block against its digests. Returns
        how many blocks come before the first one that cannot be read. Works without the interpreter's lock if `count`
        is not 1. Raises ValueError for a buffer that is too short, and BufferError for one that is read-only."""

    def entry(self, entry: int, seed: int) -> bytes | None:
        """Returns the block of a map entry that is neither HOLE nor ZERO, checked against its digests."""

    def row(self, row: int) -> bytes | None:
        """Returns the block of a row, *not* checked against its digest: for comparing, and for references."""

    def sum_alone(self, first: int, end: int, step_bytes: int, raw_from_bytes: int) -> tuple[int, int, int]:
        """Returns three sums in bytes over rows [first, end), which are all in use, were their blocks compressed with
        LZ4 and none a patch: what all map entries would take that point at them, each for itself; what the contents
        would take, each once; and what their records would take here. The first two are in steps of `step_bytes`, and
        no more than a block for each; in the last a record of `raw_from_bytes` or more is a block. Works without the
        interpreter's lock. Raises CorruptBlock for a block that cannot be read, ValueError for rows that there are
        not."""
