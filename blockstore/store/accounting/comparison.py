"""What the blocks of a store would take elsewhere: with pages shared only (KSM), or compressed only (zram with LZ4)."""

from __future__ import annotations

from typing import Final, NamedTuple

from blockstore.plane.blocks.decode import Reader
from blockstore.store.ingest import RAW_FROM_BYTES
from blockstore.store.state.geometry import BLOCK_BYTES, FIRST_ROW
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


def compare(store: Store, *, zeros: bool) -> Comparison:
    """Compares a store in which nothing was overwritten or freed; `zeros` says whether a block of zeros was written."""
    end = store.rows.next_row
    assert not len(store.rows.free)  # so that all rows are in use
    reader, sums = Reader(store.tables), [0, 0, 0]
    for first in range(FIRST_ROW, end, _ROWS_AT_ONCE):
        part = reader.sum_alone(first, min(first + _ROWS_AT_ONCE, end), ZRAM_STEP_BYTES, RAW_FROM_BYTES)
        sums = [before + more for before, more in zip(sums, part, strict=True)]
    return Comparison((end - FIRST_ROW + zeros) * BLOCK_BYTES, *sums)
