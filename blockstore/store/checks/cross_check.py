"""Decodes records and computes digests with other code than the data plane does: for verify and repair only.

A fault of the compiled decoder would go unnoticed by a check that uses it. python-lz4, zstandard and xxhash bring their
own copies of the libraries. Asks zstandard and xxhash for nothing when it is imported, because a daemon loads them with
the first record that is decoded here (daemon/supervise/lean.py): 0.3 MB.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import cached_property
from typing import Final

import lz4.block
import xxhash
import zstandard

from blockstore.store.state.geometry import (
    BLOCK_BYTES,
    COMPRESSED,
    DENSE,
    DENSE_FIRST,
    DENSE_PATCHED,
    DENSE_SECOND,
    PATCHED,
    RAW,
)

Buffer = bytes | bytearray | memoryview

_HEADER: Final = b"\x60" + (BLOCK_BYTES - 256).to_bytes(2, "little")
"""Of a frame in one segment with 4096 bytes of content, without magic number, checksum and dictionary id (RFC 8878,
section 3.1.1.1)."""


MAXIMUM_DICTIONARIES: Final = 4
"""Kept by each thread, of 0.2 MB each."""


class CrossCheckError(Exception):
    """A record is damaged."""


class _Tools(threading.local):
    """One decompressor for each thread: zstandard lets go of the interpreter's lock while it works."""

    @cached_property
    def decompress(self) -> Callable[..., bytes]:
        return zstandard.ZstdDecompressor(format=zstandard.FORMAT_ZSTD1_MAGICLESS).decompress

    @cached_property
    def with_dictionary(self) -> dict[bytes, Callable[..., bytes]]:
        return {}


_tools: Final = _Tools()


def digest(block: Buffer, seed: int) -> int:
    """Returns what plane/codec/codec.pyx computes."""
    return xxhash.xxh3_64_intdigest(block, seed)


def decode(record: Buffer, encoding: int, reference: bytes) -> bytes:
    """Returns the 4096 bytes of a record; `reference` is the block that a patch is against, or the dictionary that the
    encoding needs. Raises CrossCheckError."""
    block = b""
    try:
        if encoding in (COMPRESSED, PATCHED):
            block = lz4.block.decompress(record, BLOCK_BYTES, False, reference if encoding == PATCHED else b"")
        elif encoding in (DENSE, DENSE_FIRST, DENSE_SECOND, DENSE_PATCHED):
            frame = b"".join((_HEADER, record))
            block = _decompressor(encoding, reference)(frame, BLOCK_BYTES, allow_extra_data=False)
        elif encoding == RAW:
            block = bytes(record)
    except (lz4.block.LZ4BlockError, zstandard.ZstdError) as error:
        raise CrossCheckError(str(error)) from None
    if len(block) != BLOCK_BYTES:
        raise CrossCheckError(f"it says encoding {encoding} with {len(record)} bytes")
    return block


def _decompressor(encoding: int, reference: bytes) -> Callable[..., bytes]:
    if encoding == DENSE:
        return _tools.decompress
    return _with_reference(reference) if encoding == DENSE_PATCHED else _with_dictionary(reference)


def _with_dictionary(content: bytes) -> Callable[..., bytes]:
    """What zstd makes of a dictionary before it decodes is kept, for those that were asked for last."""
    found = _tools.with_dictionary.get(content)
    if found is None:
        dictionary = zstandard.ZstdCompressionDict(content, dict_type=zstandard.DICT_TYPE_FULLDICT)
        found = zstandard.ZstdDecompressor(format=zstandard.FORMAT_ZSTD1_MAGICLESS, dict_data=dictionary).decompress
        if len(_tools.with_dictionary) >= MAXIMUM_DICTIONARIES:
            _tools.with_dictionary.clear()
        _tools.with_dictionary[content] = found
    return found


def _with_reference(reference: bytes) -> Callable[..., bytes]:
    dictionary = zstandard.ZstdCompressionDict(reference, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    return zstandard.ZstdDecompressor(format=zstandard.FORMAT_ZSTD1_MAGICLESS, dict_data=dictionary).decompress
