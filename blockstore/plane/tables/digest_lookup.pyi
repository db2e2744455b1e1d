"""Finds digests among many others, for those who look at the contents of a store one after the other.

An open-addressed table of 32-bit numbers over the digests themselves, which stay where they are: 6 to 12 bytes for
each. They may come from another host, which could choose them so that all fall on one slot: a key that nobody knows
says where a digest goes.
"""

from blockstore.plane.buffers import Bytes

class DigestLookup:
    """Of digests of 16 bytes each. Does not change."""

    def __init__(self, digests: Bytes, key: bytes) -> None:
        """Takes digests, one behind the other, and 16 random bytes. Of those that come twice the first one is found.
        Takes a tenth of a microsecond for each, without the interpreter's lock. Raises ValueError for other lengths,
        MemoryError."""

    def __len__(self) -> int:
        """Returns how many there are."""

    def find(self, digests: Bytes) -> list[tuple[int, int]]:
        """Returns, for each of these digests that is one of those, its number here and its number there. Raises
        ValueError for a length that is no multiple of 16."""
