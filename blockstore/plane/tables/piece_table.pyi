"""What the table of pieces says, and counting what of each piece is live. For Pieces (store/moves/pieces.py), which has
the table and says what its words mean; used with the store lock.

Bits 0..20 of a word are the size of the piece in bytes; the word is 0 where there is none. A location word may be
damaged, and name a piece that there cannot be: it is left out then.
"""

from array import array

from blockstore.plane.buffers import I64s, U64s

def figures_of(table: U64s) -> tuple[int, int]:
    """Returns how many pieces there are, and how many bytes they have together."""

def lengths_of(table: U64s) -> array[int]:
    """Returns the size in bytes of each (i64), 0 where there is none."""

def numbers_of(table: U64s, *, used: bool = True) -> list[int]:
    """Returns the numbers of all pieces, in ascending order; unless `used`, those that no piece has."""

def unneeded(table: U64s, live_bytes: I64s) -> list[int]:
    """Returns the numbers of the pieces without live bytes, in ascending order. Raises ValueError when `live_bytes` has
    fewer elements than the table."""

def count_words(live_bytes: I64s, words: U64s) -> None:
    """Adds the sizes of the records at these location words, which are paged, to the live bytes of their pieces."""

def forget_words(live_bytes: I64s, words: U64s) -> list[int]:
    """Takes the sizes of the records at these location words, which are paged, from the live bytes of their pieces.
    Returns those of these pieces that have no live bytes now, in ascending order."""
