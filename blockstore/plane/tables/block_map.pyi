"""The map of a volume as typed pointers, bound once, for the compiled code that reads it; and the counts of its READs.

Volume binds its own when it opens its file and after each growth, under the store lock. Lanes look at it without a
lock meanwhile (volumes.pyi).
"""

import mmap
from array import array

from blockstore.plane.buffers import U64s

class BlockMap:
    """Empty until it is bound: all blocks are holes."""

    touched_blocks: int
    """Blocks that were written and not freed: entries that are not HOLE. Changed with the store lock."""
    is_deleted: bool
    """Nothing may be written any more. Changed with the store lock."""
    size_bytes: int
    """Of the volume, as it was stored last: what happens to the header changes nothing here."""

    has_paged_tail: bool
    """There may be bytes behind the end in the last block, which is in the tier (store/recovery.py): to be cut off
    before anything is written."""

    def __init__(
        self,
        seed: int = 0,
        *,
        domain: int = 0,
        zero_digest: int = 0,
        feature_key: array[int] | None = None,
    ) -> None:
        """All four are those of the volume's domain (store/volume.py)."""

    @property
    def refaults(self) -> int: ...
    @property
    def range_refaults(self) -> int: ...
    @property
    def range_requests(self) -> int: ...
    def copy(self, first: int, count: int) -> array[int]:
        """Returns the entries of `count` blocks from `first` on ("Q"): HOLE behind the end, and where the map has no
        memory. Like the next two with the store lock, and without the interpreter's."""

    def next_data(self, first: int, end: int) -> int:
        """Returns the first block from `first` on, before `end`, that is no hole; `end` if there is none."""

    def next_hole(self, first: int, end: int) -> int:
        """Returns the first block from `first` on, before `end`, that is a hole; `end` if there is none."""

    def count_fault(self, written: int) -> None:
        """Counts a READ of one block, which is no hole if `written` is 1."""

    def count_range(self, written: int) -> None:
        """Counts a READ of several blocks, of which so many are no holes."""

    def forget_reads(self) -> None:
        """Counts from 0."""

    def bind(
        self, entries: U64s, pages: bytearray | mmap.mmap, size_word: memoryview | None = None, fd: int = -1
    ) -> None:
        """Takes the map entries, for each page of 512 of them a byte, which is 1 if it has memory and else 0, two words
        of the header (the size, and when the content changed), and the descriptor of their file: a page with the
        header, then the entries.

        Those who look at the map meanwhile see all that it had, or what it has now. What was bound before must stay
        mapped, and show the same, until no lane can look at it. Raises ValueError for items of another type, and for
        less than is bound.
        """

    def give_memory(self, first: int, count: int) -> int:
        """Gives the pages of the map that these blocks are on memory, where they have none; with the store lock.
        Returns 0, or the errno of posix_fallocate(3), and then some may have it; EINVAL for blocks beyond the map."""

    def unbind(self) -> None:
        """Lets go of all. No lane may look at it by then (volumes.pyi, `remove`)."""
