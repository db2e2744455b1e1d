"""Dictionaries: what the cold blocks of a domain that have no reference have in common, for zstd to copy from.

One is in zstd's own format (RFC 8878, section 5): tables of symbols, then content. Whatever such a file holds, the
decoder copies only from within it. A block of 4096 bytes is encoded with the search of codec.pyx, and with tables of
the dictionary that are made once and only looked at (`ZSTD_dictForceAttach`): copying them for each block takes longer.
"""

from typing import Final

from blockstore.plane.codec.codec import Buffer

DICTIONARY_BYTES: Final[int]
"""The most that one has."""

class Dictionary:
    """A copy of the content, and what decoders need: 92 KB. It does not change, and any thread may use it."""

    size_bytes: int
    """Of the content."""

    def __init__(self, content: Buffer) -> None:
        """Raises ValueError for bytes that are no dictionary, and MemoryError."""

    def content(self) -> bytes:
        """Returns a copy of it."""

    def encoder(self, slot: int, *, hard: bool) -> DictionaryEncoder:
        """Returns the tables for encoders, in some milliseconds without the interpreter's lock. They are for records
        of this slot of the domain. Raises MemoryError."""

class DictionaryEncoder:
    """What encoders need of a dictionary: 0.4 MB, 0.8 MB to encode hard (sys.getsizeof). It does not change, and any
    thread may use it."""

    dictionary: Dictionary
    slot: int

def train(samples: Buffer, size_bytes: int) -> bytes | None:
    """Returns a dictionary of at most so many bytes, made from blocks of 4096 bytes: the strings of 8 bytes that most
    of them share (ZDICT_trainFromBuffer_fastCover, zdict.h). None where these have too little in common. Takes some
    0.1 ms a block, without the interpreter's lock, and 2 MB meanwhile. Raises MemoryError, and ValueError for what is
    no whole blocks."""
