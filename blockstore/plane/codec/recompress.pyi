"""Encodes a cold block anew with zstd, alone and against a reference, and keeps what is worth it.

Compiled code calls it for batches of blocks, without the interpreter's lock (plane/moves/reencode.pyi).
"""

from blockstore.plane.codec.codec import Codec
from blockstore.plane.codec.dictionary import DictionaryEncoder

class Recompressor:
    """Contexts of its own. For one thread at a time."""

    codec: Codec

    def __init__(self, *, gain_bytes: int, patch_gain_bytes: int, enough_share: float) -> None:
        """`gain_bytes` is what a record must save to take the place of one that zstd has not made, `patch_gain_bytes`
        what a block's first patch must save over the block alone. A patch that leaves at most `enough_share` of the old
        record is taken without trying the block alone. Raises MemoryError."""

    def encode(
        self,
        block: bytes,
        where: int,
        digest: int,
        seed: int,
        reference: bytes | None = None,
        reference_digest: int = 0,
        *,
        spared_bytes: int = 0,
        encoder: DictionaryEncoder | None = None,
        hard: bool,
        gain_share: float,
    ) -> tuple[bytes, bool] | None:
        """Returns the smaller record of a block of 4096 bytes, and whether that is a patch; None if it would save less
        than `gain_share` of what the block takes now, or `gain_bytes` if zstd has not made that, or if its content does
        not match its digest: damaged, it may be repaired only as it is. `where` tells the encoding and the size of its
        record. `reference` has as many bytes: that of a patch, or of what may become one; if it does not match its
        digest it is not used. `spared_bytes` is what it takes if this patch alone keeps it. The block alone is encoded
        with `encoder`, one for `hard`; a record that needs another dictionary than that is given up for any that is at
        most half as long again.

        Raises ValueError for a block or a reference of another length."""
