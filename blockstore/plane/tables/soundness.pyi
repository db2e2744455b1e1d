"""What a row and a map entry must be like to be used: judged by the tables alone.

Whether records decode to what was written is for those who read them. Nothing is written but the answers. Both
functions let go of the interpreter's lock; the rows may change meanwhile, and then an answer may be that of before.
"""

from blockstore.plane.buffers import Bytes, I64s, U64s
from blockstore.plane.tables.tables import Tables

class Places:
    """Where blocks can be."""

    def __init__(self, segments: int, piece_lengths: I64s, arrivals: int) -> None:
        """In so many segments, in pieces of these sizes in bytes (int64, none negative), among so many arrivals."""

def judge_words(places: Places, words: U64s, sound: Bytes) -> None:
    """Stores 1 for each location word that says a known encoding, and a record that lies in one of these places; 0 for
    others. Raises ValueError when `sound` is not as long as `words`."""

def judge_entries(tables: Tables, places: Places, entries: U64s, sound: Bytes) -> None:
    """Stores 1 for each map entry that points at no row (a hole, zeros, a lost block, one that is due), or at a row of
    this content whose word, and that of its reference if it is a patch, name records; 0 for others. Raises ValueError
    when `sound` is not as long as `entries`."""
