"""What the blocks of a store would take elsewhere: with pages shared only (KSM), or compressed only (zram with LZ4)."""

from __future__ import annotations

import time
from typing import Final, NamedTuple

from blockstore.plane.blocks.decode import Reader
from blockstore.store.codec import CODEC
from blockstore.store.ingest import RAW_FROM_BYTES
from blockstore.store.state.geometry import BLOCK_BYTES, FIRST_ROW, ZERO_BLOCK
from blockstore.store.store import Store

ZRAM_STEP_BYTES: Final = 64
"""zram's allocator keeps sizes in steps about this large. Its own tables and its slack are not counted."""

_ROWS_AT_ONCE: Final = 4096
"""A tenth of a second at most, after which an interrupt is noticed."""


class Comparison(NamedTuple):
    """Bytes for the touched blocks, but for that of zeros, where a name does not say otherwise."""

    ksm_bytes: int
    """Every content once, uncompressed; the block of zeros is one of them."""
    zram_bytes: int
    """Every block for itself, at its LZ4 size in steps of 64 bytes."""
    both_bytes: int
    """Every content once, at the same size."""
    stored_no_patch: int
    """This store without patches."""


class Alone(NamedTuple):
    """Blocks that are not zero, what LZ4 makes of each for itself, and the processor time of that in seconds."""

    blocks: int
    stored_bytes: int
    cpu_s: float


def compress_alone(data: bytes) -> Alone:
    """Compresses each block of these bytes, the last of which is filled up with zeros, as ingest would."""
    padded = data.ljust(-(-len(data) // BLOCK_BYTES) * BLOCK_BYTES, b"\0")
    cut = [padded[start : start + BLOCK_BYTES] for start in range(0, len(padded), BLOCK_BYTES)]
    blocks = [block for block in cut if block != ZERO_BLOCK]
    started_s = time.thread_time()
    sizes = [len(CODEC.encode(block)) for block in blocks]
    cpu_s = time.thread_time() - started_s
    return Alone(len(blocks), sum(BLOCK_BYTES if size >= RAW_FROM_BYTES else size for size in sizes), cpu_s)


def compare(store: Store, *, zeros: bool) -> Comparison:
    """Compares a store in which nothing was overwritten or freed; `zeros` says whether a block of zeros was written."""
    end = store.rows.next_row
    assert not len(store.rows.free)  # so that all rows are in use
    reader, sums = Reader(store.tables), [0, 0, 0]
    for first in range(FIRST_ROW, end, _ROWS_AT_ONCE):
        part = reader.sum_alone(first, min(first + _ROWS_AT_ONCE, end), ZRAM_STEP_BYTES, RAW_FROM_BYTES)
        sums = [before + more for before, more in zip(sums, part, strict=True)]
    return Comparison((end - FIRST_ROW + zeros) * BLOCK_BYTES, *sums)
