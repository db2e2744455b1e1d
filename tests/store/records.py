"""From the record of a row to its block, and from a tier in a file to its pieces: by the format alone."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Final

import lz4.block
import numpy as np
import xxhash
import zstandard

BLOCK_BYTES: Final = 4096
SEGMENT_BYTES: Final = 1 << 20
"""Of a segment of the pool, and of a slot of a tier in a file."""

FREE, RAW, LZ4, LZ4_PATCH, ZSTD, ZSTD_FIRST, ZSTD_SECOND, ZSTD_PATCH = range(8)
ENCODINGS: Final = {RAW, LZ4, LZ4_PATCH, ZSTD, ZSTD_FIRST, ZSTD_SECOND, ZSTD_PATCH}

TIER_HEADER: Final = struct.Struct("<16sII16s")
TIER_MAGIC: Final = b"blockstore tier\0"

ReadPiece = Callable[[int, int, int], bytes]
"""(piece, offset, length) -> these bytes of a piece of the tier."""

_ZSTD_HEADER: Final = bytes.fromhex("28b52ffd60") + (BLOCK_BYTES - 256).to_bytes(2, "little")
"""What a dense record is stored without: magic number, "one segment with a size of two bytes", that size less 256."""


class Damaged(Exception):
    """A record, or a block, that is not what it should be."""


class Elsewhere(Exception):
    """The bytes are in a tier, or at another host, which nobody has given to the reader."""


class TierFile:
    """A tier in a file: a header, from 4096 on the length u32 of each piece, from 64 MiB on a slot of 1 MiB for each.

    It is read by each call: as it is then."""

    def __init__(self, path: Path) -> None:
        self._path = path
        with path.open("rb") as file:
            self.magic, self.version, self.slot_bytes, self.store_id = TIER_HEADER.unpack(file.read(TIER_HEADER.size))
            file.seek(4096)
            slots = max(path.stat().st_size - (64 << 20), 0) // SEGMENT_BYTES
            self.lengths = np.frombuffer(file.read(4 * slots), dtype="<u4").astype(np.int64)

    def read(self, piece: int, offset: int, length: int) -> bytes:
        if piece >= len(self.lengths) or offset + length > self.lengths[piece]:
            raise Damaged(f"the tier has no {length} bytes at {offset} of piece {piece}")
        with self._path.open("rb") as file:
            file.seek((64 << 20) + piece * SEGMENT_BYTES + offset)
            return file.read(length)


def digest(data: bytes, seed: int) -> int:
    return xxhash.xxh3_64(data, seed=seed).intdigest()


def decode(record: bytes, encoding: int, reference: bytes) -> bytes:
    """The 4096 bytes of a record; `reference` is the block of a patch, or the dictionary that the encoding needs.
    Raises Damaged."""
    try:
        if encoding == RAW:
            block = record
        elif encoding in (LZ4, LZ4_PATCH):
            block = lz4.block.decompress(record, uncompressed_size=BLOCK_BYTES, dict=reference)
        elif encoding in (ZSTD, ZSTD_FIRST, ZSTD_SECOND, ZSTD_PATCH):
            block = _zstd(reference, is_trained=encoding in (ZSTD_FIRST, ZSTD_SECOND)).decompress(
                _ZSTD_HEADER + record, max_output_size=BLOCK_BYTES
            )
        else:
            raise Damaged(f"encoding {encoding} is not known")
    except (lz4.block.LZ4BlockError, zstandard.ZstdError) as error:
        raise Damaged(f"a record of {len(record)} bytes with encoding {encoding} does not decode: {error}") from None
    if len(block) != BLOCK_BYTES:
        raise Damaged(f"a record with encoding {encoding} decodes to {len(block)} bytes")
    return bytes(block)


@lru_cache(maxsize=4)
def _zstd(reference: bytes, *, is_trained: bool) -> zstandard.ZstdDecompressor:
    if not reference:
        return _PLAIN_ZSTD
    kind = zstandard.DICT_TYPE_FULLDICT if is_trained else zstandard.DICT_TYPE_RAWCONTENT
    dictionary = zstandard.ZstdCompressionDict(reference, dict_type=kind)
    return zstandard.ZstdDecompressor(dict_data=dictionary)


_PLAIN_ZSTD: Final = zstandard.ZstdDecompressor()
