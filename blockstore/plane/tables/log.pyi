"""The log of records in the pool: the segment that is filled, and the records that each segment still has.

Belongs to Pool (store/state/pool.py), which finds segments for it and gives them back; changed with the store lock.
Records are appended to the head with pwrite(2), by commit in compiled code (commit.pyi) and by those that move records.
"""

from array import array
from typing import Final

from blockstore.plane.buffers import I64s, U64s

MOST_LET_GO: Final[int]
"""Records that may be let go at once, when what was let go before was taken back."""

class Log:
    head: int
    """The segment to which records are appended, from `tail` to `head_end` (byte offsets in the pool); -1 for none."""
    spare: int
    """A segment with no record that becomes the head when that is full; -1 for none."""
    tail: int
    head_end: int
    filled: int
    """Segments that have become the head."""
    error: int
    """errno of the last `append` that could not write, or 0."""
    allocated_segments: int
    most_segments: int
    """How many of them may be allocated."""

    total_live_bytes: int
    """The live bytes of all segments."""

    has_let_go: bool
    """Has `take_back` something to return?"""

    def __init__(self, fd: int) -> None:
        """Appends to this file. Raises MemoryError."""

    def bind(self, live_bytes: I64s, generation: I64s) -> None:
        """Takes these columns (store/state/segments.py), which it alone writes from now on, and sums up the live bytes.
        Raises ValueError for too few segments."""

    def fits_head(self, size_bytes: int) -> bool:
        """Returns whether so many bytes of records fit in the head."""

    def is_within_limit(self, reserved_segments: int) -> bool:
        """Returns whether records may be appended while so many segments are kept free."""

    def set_spare(self, segment: int) -> None:
        """Lets a free segment be the spare one, of which there is none."""

    def append(self, records: bytes | memoryview, ends: U64s | memoryview) -> tuple[int, int, int] | None:
        """Appends records that lie one behind the other and end at `ends` (64-bit numbers), together at most a segment.
        None is split across segments. Returns (split, first, second): where the first of them lies, and where number
        `split` does, which begins another segment unless it is none. Returns None, and then nothing has changed, when
        there is no spare segment, or `error` tells why nothing was written.

        The product appends in compiled code only; this is its face for the tests of the log, of the pool and of what
        moves records, which need records at known places."""

    def let_go(self, words: U64s) -> None:
        """Counts the records at these location words no longer. A word of a damaged row may name any place. Raises
        ValueError for more than MOST_LET_GO, or when nobody has taken back what was let go, and then nothing has
        changed."""

    def take_back(self) -> tuple[array[int], list[int]] | None:
        """Returns what was let go since the last call: location words of records in the tier, and segments in which no
        record was left. One of these may have got records since, or come twice. None when there is nothing."""
