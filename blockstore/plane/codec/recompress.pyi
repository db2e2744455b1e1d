"""Encodes cold blocks anew with zstd, alone and against a reference, and keeps what is worth it (moves/densify.py)."""

from collections.abc import Sequence
from typing import Protocol, type_check_only

@type_check_only
class ColdBlock(Protocol):
    """A block, its record as it is, and what it may become a patch against."""

    @property
    def where(self) -> int:
        """The location word of its record: encoding and size."""

    @property
    def digest(self) -> int: ...
    @property
    def seed(self) -> int:
        """Of the digests of its domain."""

    @property
    def block(self) -> bytes:
        """Its 4096 bytes."""

    @property
    def reference(self) -> bytes:
        """As many, of the reference of a patch or of what may become one; b"" without."""

    @property
    def base_digest(self) -> int:
        """Of the reference."""

    @property
    def spared_bytes(self) -> int:
        """What its reference takes if this patch alone keeps it, else 0."""

class Recompressor:
    """Contexts of its own, and room for the records of a batch. For one thread at a time."""

    def __init__(self, batch_blocks: int, *, gain_bytes: int, patch_gain_bytes: int, enough_share: float) -> None:
        """`gain_bytes` is what a record must save to take the old one's place, `patch_gain_bytes` what a block's first
        patch must save over the block alone. A patch that leaves at most `enough_share` of the old record is taken
        without trying the block alone. Raises MemoryError, and ValueError for a batch of less than one block."""

    def encode(self, batch: Sequence[ColdBlock], *, hard: bool, gain_share: float) -> list[tuple[bytes, bool] | None]:
        """Returns for each block its smaller record and whether that is a patch; None for one that would save less than
        `gain_bytes` or `gain_share` of what it takes now, or whose content does not match its digest: damaged, it may
        be repaired only as it is. A reference that does not match its digest is not used. Works without the
        interpreter's lock.

        Raises ValueError for a batch that is too long and a block or reference that is not 4096 bytes long, and
        RuntimeError when another thread is in here."""
