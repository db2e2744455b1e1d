"""The tables of a store as typed pointers, bound once, for the compiled code that works on them.

A module of the plane takes a Tables in its constructor and reads `&tables.columns` (tables.pxd) without the
interpreter's lock. Rows and Pool bind theirs when they open their files and again after each growth, under the store
lock; all of `columns` is to be read anew in each call. Lanes read it without the lock: pointers are published before
the capacity that they are good for, and what was bound before stays mapped and shows the same (store/state/mapping.py).
"""

import mmap

from blockstore.plane.buffers import U16s, U32s, U64s
from blockstore.plane.codec.dictionary import Dictionary

class Tables:
    """Empty until it is bound: `capacity` and `pool_bytes` are 0."""

    @property
    def capacity(self) -> int:
        """How many rows there are."""

    @property
    def pool_bytes(self) -> int:
        """How long the pool is."""

    def __init__(self) -> None: ...
    def bind_rows(
        self,
        where: U64s,
        digest: U64s,
        reference: U32s,
        domain: U16s,
        count: U32s,
        dependents: U16s,
    ) -> None:
        """Takes these columns; the shortest one says how many rows there are. Raises ValueError for an item of another
        type, or for fewer rows than are bound, and then nothing has changed."""

    def bind_pool(self, pool: mmap.mmap | memoryview) -> None:
        """Takes this as the pool, writable or not. Raises ValueError for a shorter one than is bound."""

    def bind_dictionary(self, domain: int, slot: int, dictionary: Dictionary | None, *, is_known: bool = True) -> None:
        """Lets records of a domain (its index) be decoded with this dictionary in the slot, and none be encoded with
        what was there; with None by nothing. `is_known` says then whether records that need it are to be taken for
        sound: it is there, and damaged. Whoever takes one away has it live on until nobody can be looking at it.
        Raises ValueError for another slot than 0 and 1."""

    def let_encode(self, domain: int, slot: int) -> None:
        """From now on blocks of the domain may be encoded with the dictionary in this slot, and with no other. Raises
        ValueError if there is none."""

    def dictionary(self, domain: int, slot: int) -> Dictionary | None:
        """Returns that of a domain in a slot, if there is one that is not damaged."""

    def unbind(self) -> None:
        """Lets go of all of it."""
