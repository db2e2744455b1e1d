"""What turns a block into a record and back: digest, compression, patches. Pure functions, no state.

LZ4 with a dictionary is the delta coder: a patch is the block compressed with its reference as the dictionary
(DESIGN.md 2.3), so one decoder serves both encodings. Other codecs would be put beside these functions.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

import lz4.block
import xxhash

from blockstore.store.geometry import BLOCK_BYTES

Buffer = bytes | bytearray | memoryview

digest: Final[Callable[[Buffer, int], int]] = xxhash.xxh3_64_intdigest
"""digest(block, seed): the keyed 64-bit XXH3 of a block. It finds candidates; only comparing bytes decides."""

_lz4_compress = lz4.block.compress
_lz4_decompress = lz4.block.decompress


compress: Final[Callable[[Buffer], bytes]] = partial(lz4.block.compress, store_size=False)
"""compress(block): a raw LZ4 block (no size header), longer than the block when it does not compress."""


decompress: Final[Callable[[Buffer], bytes]] = partial(lz4.block.decompress, uncompressed_size=BLOCK_BYTES)
"""decompress(record): the 4096 bytes that `compress` was given; raises `DecodeError` for a damaged record."""


def make_patch(block: Buffer, reference: Buffer) -> bytes:
    """The block as an LZ4 block that may copy from `reference`, another whole block."""
    return _lz4_compress(block, store_size=False, dict=reference)  # type: ignore[no-any-return]


def apply_patch(patch: Buffer, reference: Buffer) -> bytes:
    """The 4096 bytes that `make_patch` was given. Raises `DecodeError` when the record is damaged."""
    return _lz4_decompress(patch, uncompressed_size=BLOCK_BYTES, dict=reference)  # type: ignore[no-any-return]


DecodeError: Final[type[Exception]] = lz4.block.LZ4BlockError
