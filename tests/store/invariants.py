"""What must hold in every store between any two steps, recomputed from the maps and the rows alone."""

from __future__ import annotations

import numpy as np

from blockstore.store.arrivals import are_due
from blockstore.store.codec import digest
from blockstore.store.decode import NotHere
from blockstore.store.geometry import (
    BLOCK_BYTES,
    CHECK_SHIFT,
    COMPRESSED,
    DENSE,
    DENSE_PATCHED,
    ENCODING_MASK,
    FIRST_ROW,
    FREE,
    PAGED,
    PATCH_BITS,
    PATCHED,
    RAW,
    SEGMENT_BYTES,
    unpack_paged,
    unpack_where,
)
from blockstore.store.soundness import NOT_ROWS
from blockstore.store.store import Store
from blockstore.store.volume import ids_of


def check_store(store: Store, *, decode: bool = False) -> None:
    """Raises AssertionError when a table of the store contradicts the others.

    With `decode`, every live row is decoded too and must match its digest (not for stores damaged on purpose).
    """
    _check_maps_and_counts(store)
    _check_rows(store)
    _check_pool(store)
    if decode:
        _check_contents(store)


def check_nothing_twice(store: Store) -> None:
    """No two rows of a domain hold the same content. Holds unless records were damaged."""
    rows, seen = store.rows, set()
    for row in np.flatnonzero(rows.where.array).tolist():
        key = (rows.domain.items[row], store.decoder.content(row))
        assert key not in seen, f"row {row} holds a content that another row of its domain holds"
        seen.add(key)


def _check_maps_and_counts(store: Store) -> None:
    rows = store.rows
    counts = np.zeros(rows.capacity, dtype=np.int64)
    volumes_of: dict[int, int] = {}
    for volume in store.volumes.values():
        domain = volume.domain
        volumes_of[domain.index] = volumes_of.get(domain.index, 0) + 1
        assert store.domains._by_key[domain.key] is domain
        assert volume.blocks <= volume._capacity, f"volume {volume.number}: the map does not cover the size"
        touched = 0
        for start, end in volume.prepared(0, volume._capacity):
            entries = volume.map_array[start:end]
            ids = ids_of(entries)
            beyond = np.flatnonzero(entries[max(volume.blocks - start, 0) :])
            assert not len(beyond), f"volume {volume.number}: {len(beyond)} entries beyond its size are no holes"
            assert int(ids.max(initial=0)) < rows.capacity, f"volume {volume.number}: an id is out of range"
            counts += np.bincount(ids, minlength=rows.capacity)
            touched += int(np.count_nonzero(entries))
            right = np.isin(entries, NOT_ROWS) | are_due(entries, store.pool.arrivals.count)
            assert right[ids < FIRST_ROW].all(), f"volume {volume.number}: an entry is damaged"
            mapped = ids[ids >= FIRST_ROW]
            checks = entries[ids >= FIRST_ROW] ^ rows.digest.array[mapped]
            assert not (checks >> np.uint64(CHECK_SHIFT)).any(), f"volume {volume.number} maps other contents"
            foreign = mapped[rows.domain.array[mapped] != domain.index]
            assert not len(foreign), f"volume {volume.number} maps rows of another domain: {foreign[:4]}"
        assert volume.touched_blocks == touched, f"volume {volume.number}: {touched} blocks are touched"
    counts[:FIRST_ROW] = 0
    kept = rows.count.array[: rows.capacity].astype(np.int64)
    wrong = np.flatnonzero(kept != counts)
    assert not len(wrong), (
        f"row {wrong[0]} is counted {kept[wrong[0]]} times, maps point at it {counts[wrong[0]]} times"
    )
    for key, entered in store.domains._by_key.items():
        assert entered.key == key and entered.volumes == volumes_of.get(entered.index, 0)


def _check_rows(store: Store) -> None:
    rows = store.rows
    where = rows.where.array[: rows.capacity]
    encoding = (where & np.uint64(ENCODING_MASK)).astype(np.int64)
    assert set(np.unique(encoding).tolist()) <= {FREE, RAW, COMPRESSED, PATCHED, DENSE, DENSE_PATCHED}
    assert not where[:FIRST_ROW].any(), "HOLE or ZERO has a row"
    is_patch = encoding & PATCH_BITS == PATCH_BITS
    patched = np.flatnonzero(is_patch)
    references = rows.reference.array[patched]
    dependents = np.bincount(references, minlength=rows.capacity)
    kept = rows.dependents.array[: rows.capacity].astype(np.int64)
    wrong = np.flatnonzero(kept != dependents)
    assert not len(wrong), f"row {wrong[0]} has {dependents[wrong[0]]} patches against it, counted are {kept[wrong[0]]}"
    assert not is_patch[references].any(), "a reference is a patch itself"
    assert (encoding[references] != FREE).all(), "a reference is a free row"
    assert (rows.domain.array[patched] == rows.domain.array[references]).all(), "a patch crosses domains"
    needed = (rows.count.array[: rows.capacity] > 0) | (dependents > 0)
    assert not (needed & (where == 0)).any(), f"free but needed: rows {np.flatnonzero(needed & (where == 0))[:4]}"
    assert not (~needed & (where != 0)).any(), f"live but unneeded: rows {np.flatnonzero(~needed & (where != 0))[:4]}"
    free = np.array(rows.free, dtype=np.int64)
    assert len(np.unique(free)) == len(free), "a row is twice on the free list"
    assert not len(free) or (free.min() >= FIRST_ROW and free.max() < rows.next_row)
    assert not where[free].any(), "a live row is on the free list"
    assert not where[rows.next_row :].any(), "a row that was never taken is live"
    assert rows.live == np.count_nonzero(where)


def _check_pool(store: Store) -> None:
    rows, pool = store.rows, store.pool
    where = rows.where.array[rows.where.array != 0]
    _check_pieces(store, where[where >= np.uint64(PAGED)].tolist())
    records = sorted(unpack_where(word) for word in where[where < np.uint64(PAGED)].tolist())
    live_bytes = np.zeros(pool.segments, dtype=np.int64)
    previous_end = 0
    for offset, size_bytes, encoding in records:
        assert 0 < size_bytes <= BLOCK_BYTES and (encoding != RAW or size_bytes == BLOCK_BYTES)
        segment = offset // SEGMENT_BYTES
        assert offset >= previous_end, f"records overlap at {offset}"
        previous_end = offset + size_bytes
        assert (previous_end - 1) // SEGMENT_BYTES == segment, f"the record at {offset} crosses segments"
        assert pool.is_allocated(segment), f"segment {segment} has live records and no memory"
        assert segment != pool.head or previous_end <= pool.tail, "a record beyond the tail of the head"
        live_bytes[segment] += size_bytes
    wrong = np.flatnonzero(live_bytes != pool.live_bytes)
    assert not len(wrong), (
        f"segment {wrong[0]} has {live_bytes[wrong[0]]} live bytes, counted are {pool.live_bytes[wrong[0]]}"
    )
    allocated = {segment for segment in range(pool.segments) if pool.is_allocated(segment)}
    assert len(allocated) == pool.allocated_segments
    for special in (pool.head, pool.spare):
        assert special < 0 or special in allocated, f"segment {special} is head or spare and has no memory"
    assert pool.spare < 0 or not live_bytes[pool.spare]
    assert sorted(pool._free) == sorted(set(range(pool.segments)) - allocated), "the free list is wrong"
    empty = [segment for segment in allocated if not live_bytes[segment] and segment not in (pool.head, pool.spare)]
    assert not empty, f"segments {empty[:4]} hold nothing and were not given back"
    assert pool.garbage_bytes >= 0


def _check_pieces(store: Store, words: list[int]) -> None:
    pieces = store.pool.pieces
    live_bytes = np.zeros(len(pieces.live_bytes), dtype=np.int64)
    ends: dict[int, int] = {}
    for piece, offset, size_bytes in sorted(unpack_paged(word) for word in words):
        assert offset >= ends.get(piece, 0), f"records of piece {piece} overlap at {offset}"
        ends[piece] = offset + size_bytes
        assert ends[piece] <= pieces.length(piece), f"a record beyond the end of piece {piece}"
        live_bytes[piece] += size_bytes
    wrong = np.flatnonzero(live_bytes != pieces.live_bytes)
    assert not len(wrong), f"piece {wrong[0]} has {live_bytes[wrong[0]]} live bytes"
    assert pieces.numbers() == sorted(ends), "a piece that nobody needs is in the table"
    assert len(set(pieces.doomed)) == len(pieces.doomed) and not set(pieces.doomed) & set(ends)
    assert not set(pieces._free) & (set(ends) | set(pieces.doomed)), "the number of a piece is given away"


def _check_contents(store: Store) -> None:
    rows = store.rows
    seeds = {domain.index: domain.seed for domain in store.domains._by_key.values()}
    for row in np.flatnonzero(rows.where.array).tolist():
        try:
            block = store.decoder.content(row)
        except NotHere:
            continue
        assert len(block) == BLOCK_BYTES
        assert digest(block, seeds[rows.domain.items[row]]) == rows.digest.items[row], f"row {row} is damaged"
