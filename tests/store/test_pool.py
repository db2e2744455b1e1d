"""The pool: its limit holds, records stay where they were put, and free segments go back to the host."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from blockstore.errors import InputError, OutOfRoom
from blockstore.store.geometry import RAW, SEGMENT_BYTES, pack_where
from blockstore.store.home import DirectoryHome, MemoryHome
from blockstore.store.pool import COMPACTION_RESERVE_SEGMENTS, MINIMUM_LIMIT_BYTES, Pool
from blockstore.store.store import Store, run
from tests.store.invariants import check_store
from tests.store.material import half, noise, put

RECORD = b"record" * 500


def host_bytes(pool: Pool) -> int:
    """What the file really costs."""
    return os.fstat(pool._fd).st_blocks * 512


def append(pool: Pool, *records: bytes) -> int:
    """Store them; the `where` word of the last one."""
    sizes = np.array([len(record) for record in records], dtype=np.int64)
    return pack_where(int(pool.append(records, sizes)[-1]), len(records[-1]), RAW)


def fill(pool: Pool) -> list[int]:
    """`where` words of records up to the limit."""
    words = []
    while True:
        try:
            pool.reserve(len(RECORD))
        except OutOfRoom:
            return words
        words.append(append(pool, RECORD))


def test_a_limit_that_is_too_small_is_refused() -> None:
    with pytest.raises(InputError, match="too small"):
        Pool(MemoryHome(), MINIMUM_LIMIT_BYTES - 1)
    Pool(MemoryHome(), MINIMUM_LIMIT_BYTES).close()


def test_an_empty_pool_costs_nothing() -> None:
    pool = Pool(MemoryHome(), 1 << 40)
    assert pool.allocated_bytes == host_bytes(pool) == pool.garbage_bytes == 0
    assert pool.emptiest() == (-1, 0)


def test_limit_and_reserve() -> None:
    pool = Pool(MemoryHome(), 16 << 20)
    words = fill(pool)
    assert pool.allocated_segments == 16 - COMPACTION_RESERVE_SEGMENTS
    assert host_bytes(pool) == pool.allocated_bytes
    assert pool.free_bytes < len(RECORD)
    assert len(words) == pool.allocated_segments * (SEGMENT_BYTES // len(RECORD))
    with pytest.raises(OutOfRoom, match="16 MiB"):
        pool.reserve(len(RECORD))
    pool.reserve(len(RECORD), reserved_segments=0)  # what compaction may do
    assert pool.allocated_segments == 16 - COMPACTION_RESERVE_SEGMENTS + 1
    append(pool, RECORD)


def test_reserve_that_fails_changes_nothing() -> None:
    pool = Pool(MemoryHome(), 8 << 20)
    fill(pool)
    before = (pool.head, pool.tail, pool.head_end, pool.allocated_segments, list(pool._free), host_bytes(pool))
    with pytest.raises(OutOfRoom):
        pool.reserve(SEGMENT_BYTES // 2)
    assert before == (
        pool.head,
        pool.tail,
        pool.head_end,
        pool.allocated_segments,
        list(pool._free),
        host_bytes(pool),
    )


def test_records_stay_as_they_are_and_memory_comes_back() -> None:
    pool = Pool(MemoryHome(), 16 << 20)
    words = np.array(fill(pool), dtype=np.uint64)
    for word in words.tolist():
        offset = word >> 16
        assert pool.view[offset : offset + len(RECORD)] == RECORD
    before = host_bytes(pool)
    in_first = words[words >> np.uint64(36) == words[0] >> np.uint64(36)]
    pool.forget(in_first[:-1])
    assert host_bytes(pool) == before, "a segment with a live record was given back"
    assert pool.emptiest() == (int(words[0]) >> 36, len(RECORD))
    assert pool.garbage_bytes >= len(RECORD) * (len(in_first) - 1)
    pool.forget(in_first[-1:])
    assert host_bytes(pool) == before - SEGMENT_BYTES == pool.allocated_bytes
    pool.forget(words[len(in_first) :])
    assert host_bytes(pool) == SEGMENT_BYTES, "all but the head should be back at the host"
    assert pool.allocated_segments == 1 and not pool.live_bytes.any()


def test_reading_a_released_segment_gives_zeros() -> None:
    pool = Pool(MemoryHome(), 16 << 20)
    words = np.array(fill(pool), dtype=np.uint64)
    pool.forget(words)
    offset = int(words[0]) >> 16
    assert not any(pool.view[offset : offset + len(RECORD)])


def test_the_head_that_holds_nothing_is_released_when_it_is_left() -> None:
    pool = Pool(MemoryHome(), 16 << 20)
    pool.reserve(len(RECORD))
    pool.forget(np.array([append(pool, RECORD)], dtype=np.uint64))
    assert pool.allocated_segments == 1, "the head is written on"
    big = noise(1) * 50
    for _ in range(2 * SEGMENT_BYTES // len(big)):
        pool.reserve(len(big))
        pool.forget(np.array([append(pool, *[noise(1)] * 50)], dtype=np.uint64))
        pool.live_bytes[pool.live_bytes > 0] = 0  # the other 49 as well
    assert pool.allocated_segments <= 2 and host_bytes(pool) == pool.allocated_bytes


def test_records_reserved_together_are_split_between_segments_not_within() -> None:
    pool = Pool(MemoryHome(), 16 << 20)
    words, expected = [], []
    for turn in range(60):
        records = [noise(100 * turn + place)[: 1 + 37 * place] for place in range(64)]
        sizes = np.array([len(record) for record in records], dtype=np.int64)
        pool.reserve(int(sizes.sum()))
        words += pool.append(records, sizes).tolist()
        expected += records
    for offset, record in zip(words, expected, strict=True):
        assert pool.view[offset : offset + len(record)] == record
        assert offset // SEGMENT_BYTES == (offset + len(record) - 1) // SEGMENT_BYTES
        assert pool.is_allocated(offset // SEGMENT_BYTES)
    assert int(pool.live_bytes.sum()) == sum(map(len, expected))


def test_adopt_learns_what_is_used_and_frees_the_rest(state_path: Path) -> None:
    home = DirectoryHome(state_path)
    pool = Pool(home, 16 << 20)
    words = np.array(fill(pool), dtype=np.uint64)
    kept = np.concatenate((words[:5], words[-3:]))
    pool.close()
    pool = Pool(home, 32 << 20)
    pool.adopt(np.concatenate((kept, np.zeros(7, dtype=np.uint64))))
    assert pool.segments == 32
    assert pool.allocated_segments == 2 and host_bytes(pool) == 2 * SEGMENT_BYTES
    assert int(pool.live_bytes.sum()) == 8 * len(RECORD)
    for word in kept.tolist():
        assert pool.view[word >> 16 : (word >> 16) + len(RECORD)] == RECORD
    more = fill(pool)
    assert not {word >> 36 for word in more} & {word >> 36 for word in kept.tolist()}, "appended to a used segment"
    pool.close()
    home.close()


def test_reopening_under_a_lower_limit_keeps_all(state_path: Path) -> None:
    store = Store(DirectoryHome(state_path), 32 << 20)
    volume = store.create_volume(1, 1)
    data = b"".join(half(seed) for seed in range(6000))
    put(store, volume, 0, data)
    store.close()
    store = Store(DirectoryHome(state_path), MINIMUM_LIMIT_BYTES)
    volume = store.volumes[1]
    check_store(store)
    assert b"".join(store.read(volume, 0, len(data))) == data
    assert store.pool.free_bytes == 0
    assert next(iter(store.write_steps(volume, 0, half(7000)))) is False
    run(store.discard_steps(volume, 1 << 20, len(data)))
    put(store, volume, 0, half(7000))
    check_store(store)
    store.close()


def test_full_segments_are_full() -> None:
    """geometry.py: the unused tail of a segment is at most one record, under 0.4 %."""
    store = Store(MemoryHome(), 64 << 20, patching=False)
    volume = store.create_volume(1, 1)
    put(store, volume, 0, b"".join(half(seed) for seed in range(8000)))
    live = store.pool.live_bytes.copy()
    live[store.pool.head] = 0
    full = live[live > 0]
    assert len(full) >= 8
    assert full.min() >= 0.99 * SEGMENT_BYTES, f"full segments hold {full.mean() / SEGMENT_BYTES:.1%} on average"
