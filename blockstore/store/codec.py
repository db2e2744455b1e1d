"""What turns a block into a record and back: digest, compression, patches. Pure functions, no state.

LZ4 with a dictionary is the delta coder: a patch is the block compressed with its reference as the dictionary
(docs/decisions.md), so one decoder serves both encodings. The codec of what is cold is dense.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import repeat
from typing import Final

import lz4.block
import xxhash

from blockstore.store import dense
from blockstore.store.geometry import BLOCK_BYTES, COMPRESSED, DENSE, DENSE_PATCHED, PATCHED, RAW

Buffer = bytes | bytearray | memoryview

digest: Final[Callable[[Buffer, int], int]] = xxhash.xxh3_64_intdigest
"""digest(block, seed): the keyed 64-bit XXH3 of a block. It finds candidates; only comparing bytes decides."""

# lz4's arguments are given by place: reading their names would cost it a tenth to a quarter of its time.
_lz4_compress = lz4.block.compress
_lz4_decompress = lz4.block.decompress
_PLAIN: Final = ("default", False)  # mode, store_size
_WITH_REFERENCE: Final = (*_PLAIN, 1, 0, False)  # acceleration, compression, return_bytearray; then dict


def compress(block: Buffer) -> bytes:
    """A raw LZ4 block (no size header), longer than the block when that does not compress."""
    return _lz4_compress(block, *_PLAIN)  # type: ignore[no-any-return]


def compress_all(blocks: Iterable[Buffer]) -> Iterator[bytes]:
    """`compress` for many at once."""
    mode, store_size = _PLAIN
    return map(_lz4_compress, blocks, repeat(mode), repeat(store_size))


decompress: Final[Callable[[Buffer, int], bytes]] = lz4.block.decompress
"""decompress(record, BLOCK_BYTES): what `compress` was given; raises `DecodeError` for a damaged record."""


def make_patch(block: Buffer, reference: Buffer) -> bytes:
    """The block as an LZ4 block that may copy from `reference`, another whole block."""
    return _lz4_compress(block, *_WITH_REFERENCE, reference)  # type: ignore[no-any-return]


def apply_patch(patch: Buffer, reference: Buffer) -> bytes:
    """The 4096 bytes that `make_patch` was given. Raises `DecodeError` when the record is damaged."""
    return _lz4_decompress(patch, BLOCK_BYTES, False, reference)  # type: ignore[no-any-return]


DecodeError: Final[type[Exception]] = lz4.block.LZ4BlockError


def decode(record: Buffer, encoding: int, reference: bytes) -> bytes:
    """The 4096 bytes of a record; `reference` is the block that a patch is against. Raises `DecodeError`."""
    if encoding == COMPRESSED:
        return decompress(record, BLOCK_BYTES)
    if encoding == PATCHED:
        return apply_patch(record, reference)
    if encoding == DENSE:
        return _dense(dense.decompress, record)
    if encoding == DENSE_PATCHED:
        return _dense(dense.apply_patch, record, reference)
    if encoding == RAW and len(record) == BLOCK_BYTES:
        return bytes(record)
    raise DecodeError(f"it says encoding {encoding} with {len(record)} bytes")


def _dense(decoder: Callable[..., bytes], *arguments: Buffer) -> bytes:
    try:
        return decoder(*arguments)
    except dense.DenseError as error:
        raise DecodeError(str(error)) from None
