"""Blocks to train a dictionary on, picked evenly from all of a domain that have no reference.

Needs neither the store lock nor the interpreter's: each block is read within the epochs (sync/epochs.pyi), and checked
against its digest.
"""

from blockstore.plane.buffers import Bytes
from blockstore.plane.sync.epochs import Epochs
from blockstore.plane.tables.tables import Tables

class Sampler:
    """Contexts of its own. For one thread at a time."""

    def __init__(self, tables: Tables, epochs: Epochs, *, minimum_bytes: int) -> None:
        """Records below `minimum_bytes` are not picked: what they need a dictionary has not got. Raises
        MemoryError."""

    def sample(self, domain: int, seed: int, every: int, first: int, blocks: Bytes) -> int:
        """Writes every `every`-th block of the domain (its index) that has a record of its own in the pool, and is
        compressed, into `blocks`, beginning with the one before which there are `first`. `seed` is that of the domain's
        digests. Returns how many there are, at most as many as fit. Raises ValueError for `every` below 1."""
