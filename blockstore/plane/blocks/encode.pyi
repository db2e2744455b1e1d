"""Encoding of a batch of blocks, without the store lock and without the interpreter's: which contents are stored
already, and what the others are stored as.

Tables may change meanwhile, so all that was looked up is noted - a row and its location word - and `is_valid` looks
again whether it still holds, under the store lock, before commit.pyx publishes the batch. A record that changes under
the reader decodes to something else, or not at all (decoders are bounded); equality is decided by comparing bytes, and
the reference of a patch counts only if what was decoded has the digest of its row.
"""

from array import array
from collections.abc import Sequence

from blockstore.plane.sync.epochs import Epochs
from blockstore.plane.tables.content_index import ContentIndex
from blockstore.plane.tables.similarity_index import SimilarityIndex
from blockstore.plane.tables.tables import Tables

Buffer = bytes | bytearray | memoryview

class Batch:
    """Scratch memory and result, allocated once: 4.2 KiB a block and the contexts of a codec. For one thread at a
    time."""

    blocks: int
    """In the batch."""
    domain: int
    """Of the volume that they are for."""
    contents: int
    """Of which so many have to be stored."""
    featured: int
    """Of these so many may become references."""
    record_bytes: int
    """What the records of the contents take."""

    def __init__(
        self,
        most_blocks: int,
        tables: Tables,
        index: ContentIndex,
        similarity: SimilarityIndex,
        epochs: Epochs,
        *,
        raw_from_bytes: int,
        patch_from_bytes: int,
        lone_hint_from_bytes: int,
        patch_gain_bytes: int,
        most_dependents: int,
        patching: bool,
    ) -> None:
        """The numbers are those of store/ingest.py. Raises MemoryError."""

    def load(
        self,
        pieces: Sequence[Buffer],
        domain: int,
        seed: int,
        zero_digest: int,
        key: array[int],
    ) -> None:
        """Takes the whole blocks of these pieces, which it holds until `clear`. `key` is `multipliers(seed)`.

        Raises ValueError for more than `most_blocks`, for none, and for a piece of another size than whole blocks."""

    def encode(self) -> None:
        """Encodes what was loaded. Takes no lock of the store, and lets go of the interpreter's."""

    def encode_again(self) -> None:
        """Encodes what was loaded. To be called with the store lock: then it is valid, whatever it finds."""

    def is_valid(self) -> bool:
        """Returns whether all that was looked up is still so: what was stored already is, what was not is not, and each
        patch's reference is the block that it was, and still may be a reference. To be called with the store lock."""

    def records(self) -> memoryview:
        """Returns the records of the contents, one behind the other, until the next `encode`."""

    def ends(self) -> memoryview:
        """Returns where each record ends (64-bit numbers), until the next `encode`."""

    def clear(self) -> None:
        """Lets go of the pieces."""
