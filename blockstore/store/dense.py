"""The codec of what is cold: zstd where codec.py has LZ4. A third smaller, and some eight times as slow to make; four
times as slow to read.

A record is a frame without its header, which is the same for all. So damage to a record can never ask the decoder for
another size, window or dictionary.
"""

from __future__ import annotations

import threading
from typing import Final

import zstandard

from blockstore.store.geometry import BLOCK_BYTES

Buffer = bytes | bytearray | memoryview

LEVEL: Final = 5
"""Of memory of guests it makes 2 % less than level 3 in twice the time."""

HARD_LEVEL: Final = 12
HARD_SEARCH_LOG: Final = 2
HARD_TARGET_LENGTH_BYTES: Final = 16
"""For 4 KiB level 12 is the lowest with matches of three bytes and a parser that weighs them against each other: it
makes 4 % less than level 5, in five times the time. Level 19 makes another 1.5 % less in four times that. Looking at
fewer matches, and taking the first that is so long, takes a quarter off the time, and makes 0.7 % more."""

DenseError: Final[type[Exception]] = zstandard.ZstdError

_HEADER: Final = b"\x60" + (BLOCK_BYTES - 256).to_bytes(2, "little")
"""Of a frame in one segment with 4096 bytes of content, without magic number, checksum and dictionary id (RFC 8878,
section 3.1.1.1)."""

_MAGICLESS: Final = zstandard.FORMAT_ZSTD1_MAGICLESS


def _parameters(dictionary_bytes: int, *, hard: bool) -> zstandard.ZstdCompressionParameters:
    less = {"search_log": HARD_SEARCH_LOG, "target_length": HARD_TARGET_LENGTH_BYTES} if hard else {}
    return zstandard.ZstdCompressionParameters.from_level(
        HARD_LEVEL if hard else LEVEL,
        source_size=BLOCK_BYTES,
        dict_size=dictionary_bytes,
        **less,
        format=_MAGICLESS,
        write_content_size=True,
        write_checksum=False,
        write_dict_id=False,
    )


_PLAIN: Final = [_parameters(0, hard=hard) for hard in (False, True)]
_WITH_REFERENCE: Final = [_parameters(BLOCK_BYTES, hard=hard) for hard in (False, True)]


class _Tools(threading.local):
    """Dear to make, and never for two threads at once: zstandard lets go of the interpreter's lock."""

    def __init__(self) -> None:
        self.compress = [zstandard.ZstdCompressor(compression_params=parameters).compress for parameters in _PLAIN]
        self.decompress = zstandard.ZstdDecompressor(format=_MAGICLESS).decompress


_tools: Final = _Tools()


def compress(block: Buffer, *, hard: bool = False) -> bytes:
    """The record of a whole block; longer than the block when that does not compress."""
    return _record(_tools.compress[hard](block))


def decompress(record: Buffer) -> bytes:
    """The 4096 bytes that `compress` was given. Raises `DenseError` when the record is damaged."""
    return _block(_tools.decompress(_frame(record), BLOCK_BYTES, allow_extra_data=False))


def make_patch(block: Buffer, reference: bytes, *, hard: bool = False) -> bytes:
    """The record of a block that may copy from `reference`, another whole block."""
    # A new compressor for each, because zstandard gives one dictionary to a compressor for good.
    compressor = zstandard.ZstdCompressor(compression_params=_WITH_REFERENCE[hard], dict_data=_dictionary(reference))
    return _record(compressor.compress(block))


def apply_patch(record: Buffer, reference: bytes) -> bytes:
    """The 4096 bytes that `make_patch` was given. Raises `DenseError` when the record is damaged."""
    decompressor = zstandard.ZstdDecompressor(format=_MAGICLESS, dict_data=_dictionary(reference))
    return _block(decompressor.decompress(_frame(record), BLOCK_BYTES, allow_extra_data=False))


def _dictionary(reference: bytes) -> zstandard.ZstdCompressionDict:
    return zstandard.ZstdCompressionDict(reference, dict_type=zstandard.DICT_TYPE_RAWCONTENT)


def _frame(record: Buffer) -> bytes:
    return b"".join((_HEADER, record))


def _record(frame: bytes) -> bytes:
    assert frame.startswith(_HEADER), "zstd writes another header than the one that decoding puts in front"
    return frame[len(_HEADER) :]


def _block(content: bytes) -> bytes:
    if len(content) != BLOCK_BYTES:
        raise DenseError(f"a frame of {len(content)} bytes")
    return content
