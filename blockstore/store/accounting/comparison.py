"""What the blocks of a store would take elsewhere: with pages shared only (KSM), or compressed only (zram with LZ4)."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from blockstore.store.codec import CODEC
from blockstore.store.ingest import RAW_FROM_BYTES
from blockstore.store.state.geometry import BLOCK_BYTES, COMPRESSED, FIRST_ROW
from blockstore.store.state.location import encodings_of, sizes_of
from blockstore.store.store import Store

ZRAM_STEP_BYTES: Final = 64
"""zram's allocator keeps sizes in steps about this large. Its own tables and its slack are not counted."""


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
    sizes = _compressed_sizes(store)
    count = store.rows.count.array[FIRST_ROW : store.rows.next_row].astype(np.int64)
    in_zram = np.minimum(-(-sizes // ZRAM_STEP_BYTES) * ZRAM_STEP_BYTES, BLOCK_BYTES)
    plain = np.where(sizes >= RAW_FROM_BYTES, BLOCK_BYTES, sizes)
    return Comparison(
        ksm_bytes=(len(sizes) + zeros) * BLOCK_BYTES,
        zram_bytes=int((in_zram * count).sum()),
        both_bytes=int(in_zram.sum()),
        stored_no_patch=int(plain.sum()),
    )


def _compressed_sizes(store: Store) -> npt.NDArray[np.int64]:
    """The LZ4 size of each row's block alone. Nothing was freed: the rows are dense, each has a map entry."""
    rows = store.rows
    assert not len(rows.free) and rows.count.array[FIRST_ROW : rows.next_row].all()
    where = rows.where.array[FIRST_ROW : rows.next_row]
    sizes = sizes_of(where)
    content = store.decoder.content
    for place in np.flatnonzero(encodings_of(where) != COMPRESSED).tolist():
        sizes[place] = len(CODEC.encode(content(place + FIRST_ROW)))
    return sizes
