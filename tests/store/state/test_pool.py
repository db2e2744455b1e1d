"""The pool: its limit holds, records stay where they were put, and free segments go back to the host."""

from __future__ import annotations

import os
from array import array
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest

from blockstore.errors import CorruptBlock, InputError, OutOfRoom
from blockstore.plane.moves.choice import emptiest
from blockstore.store.state.geometry import BLOCK_BYTES, ID_MASK, RAW, SEGMENT_BYTES, WHERE_SEGMENT_SHIFT, ZERO_ENTRY
from blockstore.store.state.home import DirectoryHome, MemoryHome
from blockstore.store.state.location import LAST_PIECE, PAGED_PLACE, offset_of, pack
from blockstore.store.state.pool import COMPACTION_RESERVE_SEGMENTS, Pool
from blockstore.store.state.pool_limit import MAXIMUM_LIMIT_BYTES, MINIMUM_LIMIT_BYTES
from blockstore.store.steps import Outcome, run
from blockstore.store.store import Store
from tests.store.invariants import check_store
from tests.store.material import contents, half, noise, put

RECORD = b"record" * 500


def host_bytes(pool: Pool) -> int:
    """What the file really costs."""
    return os.fstat(pool._fd).st_blocks * 512


def append(pool: Pool, *records: bytes, reserved_segments: int = COMPACTION_RESERVE_SEGMENTS) -> list[int]:
    """Store them together, as those do who move records; their `where` words."""
    ends = array("Q", accumulate(map(len, records)))
    pool.make_room_for(ends[-1], reserved_segments)
    placed = pool.log.append(b"".join(records), ends)
    if placed is None:
        raise pool.append_error()
    pool.take_back()
    split, first, second = placed
    starts = [end - len(record) for end, record in zip(ends, records, strict=True)]
    offsets = [first + start for start in starts[:split]]
    offsets += [second + start - starts[split] for start in starts[split:]]
    return [pack(offset, len(record), RAW) for offset, record in zip(offsets, records, strict=True)]


def forget(pool: Pool, words: list[int]) -> None:
    pool.forget(array("Q", words))


def fill(pool: Pool) -> list[int]:
    """`where` words of records up to the limit."""
    words: list[int] = []
    while True:
        try:
            words += append(pool, RECORD)
        except OutOfRoom:
            return words


def test_a_limit_that_is_too_small_is_refused() -> None:
    with pytest.raises(InputError, match="too small"):
        Pool(MemoryHome(), MINIMUM_LIMIT_BYTES - 1)
    Pool(MemoryHome(), MINIMUM_LIMIT_BYTES).close()


def emptiest_of(pool: Pool) -> list[int]:
    """The emptiest of the segments that are full, if there is one."""
    return emptiest(pool.log, pool.segments.has_memory, pool.segments.is_retired, SEGMENT_BYTES, 1)


def test_an_empty_pool_costs_nothing() -> None:
    pool = Pool(MemoryHome(), 1 << 40)
    assert pool.allocated_bytes == host_bytes(pool) == pool.garbage_bytes == 0
    assert emptiest_of(pool) == []


def test_limit() -> None:
    pool = Pool(MemoryHome(), 16 << 20)
    words = fill(pool)
    assert pool.allocated_segments == 16 - COMPACTION_RESERVE_SEGMENTS
    assert len(words) * len(RECORD) <= host_bytes(pool) <= pool.allocated_bytes
    assert pool.free_bytes < len(RECORD)
    assert len(words) == pool.allocated_segments * (SEGMENT_BYTES // len(RECORD))
    with pytest.raises(OutOfRoom, match="16 MiB"):
        append(pool, RECORD)
    append(pool, RECORD, reserved_segments=0)  # what compaction may do
    assert pool.allocated_segments == 16 - COMPACTION_RESERVE_SEGMENTS + 1


def test_an_append_that_fails_changes_nothing() -> None:
    pool = Pool(MemoryHome(), 8 << 20)
    fill(pool)

    def state() -> list[object]:
        return [
            pool.head,
            pool.log.tail,
            pool.log.head_end,
            pool.log.spare,
            pool.allocated_segments,
            list(pool._free),
            pool.segments.live_bytes.tolist(),
            host_bytes(pool),
        ]

    before = state()
    for records in ([RECORD], [RECORD[:50]] * 60 + [RECORD]):
        with pytest.raises(OutOfRoom):
            append(pool, *records)
        assert state() == before


def test_records_stay_as_they_are_and_memory_comes_back() -> None:
    pool = Pool(MemoryHome(), 16 << 20)
    words = fill(pool)
    for word in words:
        assert pool.view[word >> 16 : (word >> 16) + len(RECORD)] == RECORD
    before = host_bytes(pool)
    in_first = [word for word in words if word >> 36 == words[0] >> 36]
    forget(pool, in_first[:-1])
    assert host_bytes(pool) == before, "a segment with a live record was given back"
    assert emptiest_of(pool) == [words[0] >> 36]
    assert pool.garbage_bytes >= len(RECORD) * (len(in_first) - 1)
    allocated_bytes = pool.allocated_bytes
    forget(pool, in_first[-1:])
    assert pool.allocated_bytes == allocated_bytes - SEGMENT_BYTES
    assert before - SEGMENT_BYTES <= host_bytes(pool) < before - 0.99 * SEGMENT_BYTES
    forget(pool, words[len(in_first) :])
    assert host_bytes(pool) <= pool.allocated_bytes == SEGMENT_BYTES, "all but the head should be back at the host"
    assert not any(pool.segments.live_bytes)
    assert not any(pool.view[words[0] >> 16 : (words[0] >> 16) + len(RECORD)])


def test_the_head_that_holds_nothing_is_released_when_it_is_left() -> None:
    pool = Pool(MemoryHome(), 16 << 20)
    forget(pool, append(pool, RECORD))
    assert pool.allocated_segments == 1, "the head is written on"
    for _ in range(100):
        forget(pool, append(pool, *[RECORD] * 60))
    assert pool.allocated_segments <= 2 and host_bytes(pool) <= pool.allocated_bytes
    assert not any(pool.segments.live_bytes)


def test_records_appended_together_are_split_between_segments_not_within() -> None:
    pool = Pool(MemoryHome(), 16 << 20)
    words, expected = [], []
    for turn in range(60):
        records = [noise(100 * turn + place)[: 1 + 37 * place] for place in range(64)]
        words += append(pool, *records)
        expected += records
    for word, record in zip(words, expected, strict=True):
        offset = word >> 16
        assert pool.view[offset : offset + len(record)] == record
        assert offset // SEGMENT_BYTES == (offset + len(record) - 1) // SEGMENT_BYTES
        assert pool.is_allocated(offset // SEGMENT_BYTES)
    assert pool.live_bytes == sum(map(len, expected))


def test_adopt_learns_what_is_used_and_frees_the_rest(state_path: Path) -> None:
    home = DirectoryHome(state_path)
    pool = Pool(home, 16 << 20)
    words = fill(pool)
    kept = words[:5] + words[-3:]
    pool.close()
    pool = Pool(home, 32 << 20)
    pool.adopt(array("Q", [*kept, 0, 0, 0]))
    assert pool.segments.count == 32
    assert pool.allocated_segments == 2 and host_bytes(pool) <= 2 * SEGMENT_BYTES
    assert pool.live_bytes == 8 * len(RECORD)
    more = fill(pool)
    assert not {word >> 36 for word in more} & {word >> 36 for word in kept}, "appended to a used segment"
    for word in kept:
        assert pool.view[word >> 16 : (word >> 16) + len(RECORD)] == RECORD
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
    assert store.read(volume, 0, len(data)) == data
    assert store.pool.free_bytes == 0
    assert next(iter(store.write_steps(volume, 0, half(7000)))) is Outcome.NO_ROOM
    run(store.discard_steps(volume, 1 << 20, len(data)))
    put(store, volume, 0, half(7000))
    check_store(store)
    store.close()


def test_full_segments_are_full() -> None:
    """geometry.py: the unused tail of a segment is at most one record, under 0.4 %."""
    store = Store(MemoryHome(), 64 << 20, patching=False)
    volume = store.create_volume(1, 1)
    put(store, volume, 0, b"".join(half(seed) for seed in range(8000)))
    live = np.array(store.pool.segments.live_bytes)
    live[store.pool.head] = 0
    full = live[live > 0]
    assert len(full) >= 8
    assert full.min() >= 0.99 * SEGMENT_BYTES, f"full segments hold {full.mean() / SEGMENT_BYTES:.1%} on average"


def test_the_limit_can_be_changed() -> None:
    store = Store(MemoryHome(), MINIMUM_LIMIT_BYTES)
    volume = store.create_volume(1, 1)
    data = b"".join(noise(seed) for seed in range(3000))
    with pytest.raises(OutOfRoom):
        put(store, volume, 0, data)
    store.pool.set_limit(32 << 20)
    check_store(store)
    put(store, volume, 0, data)
    check_store(store, decode=True)
    assert contents(store, volume) == data
    with pytest.raises(InputError, match="free memory first"):
        store.pool.set_limit(MINIMUM_LIMIT_BYTES)
    for limit_bytes in (MINIMUM_LIMIT_BYTES - 1, MAXIMUM_LIMIT_BYTES + 1):
        with pytest.raises(InputError, match="limit"):
            store.pool.set_limit(limit_bytes)
    store.pool.set_limit(16 << 20)
    assert contents(store, volume) == data


@pytest.mark.parametrize("limit_bytes", (32 << 20, 100 << 30))
def test_a_larger_limit_leaves_views_as_they_are(limit_bytes: int) -> None:
    pool = Pool(MemoryHome(), MINIMUM_LIMIT_BYTES)
    offset = offset_of(append(pool, RECORD)[0])
    view = pool.view
    pool.set_limit(limit_bytes)
    assert len(view) == MINIMUM_LIMIT_BYTES and len(pool.view) == limit_bytes
    pool.mend(offset, 7)
    assert view[offset] == pool.view[offset] == 7, "both show the same memory"
    pool.close()
    assert view[offset + 1 : offset + len(RECORD)] == RECORD[1:], "a view outlives the pool"


def test_room_that_is_lent_and_wanted_back() -> None:
    pool = Pool(MemoryHome(), MINIMUM_LIMIT_BYTES)
    words = fill(pool)
    full = pool.allocated_bytes
    pool.lend(4 * SEGMENT_BYTES)
    assert pool.limit_bytes == MINIMUM_LIMIT_BYTES and pool.free_bytes <= SEGMENT_BYTES
    words += fill(pool)
    assert full + 3 * SEGMENT_BYTES <= pool.allocated_bytes <= full + 4 * SEGMENT_BYTES
    pool.lend(0)
    above = pool.allocated_bytes
    assert len(fill(pool)) * len(RECORD) <= SEGMENT_BYTES, "no more than the rest of the head"
    assert pool.allocated_bytes == above
    for _ in range(SEGMENT_BYTES // len(RECORD)):  # compaction has somewhere to move records
        append(pool, RECORD, reserved_segments=0)
    forget(pool, words)
    assert fill(pool) and pool.allocated_bytes <= MINIMUM_LIMIT_BYTES
    pool.close()


@pytest.mark.parametrize("place", (PAGED_PLACE + LAST_PIECE, PAGED_PLACE - 1), ids=("of a piece", "of a segment"))
@pytest.mark.parametrize("compiled", (True, False), ids=("by a write", "by verify"))
def test_a_damaged_word_that_names_no_place_can_be_let_go(place: int, compiled: bool) -> None:
    """What lies there cannot be read, and to overwrite it is how it is mended."""
    store = Store(MemoryHome(), 16 << 20)
    volume = store.create_volume(1, 1)
    put(store, volume, 0, noise(1) + noise(2))
    row, live_bytes = volume.lookup(0) & ID_MASK, store.pool.live_bytes
    store.rows.where.items[row] |= place << WHERE_SEGMENT_SHIFT
    with pytest.raises(CorruptBlock):
        store.read(volume, 0, BLOCK_BYTES)
    if compiled:
        put(store, volume, 0, noise(3))
        live_bytes += BLOCK_BYTES
    else:
        volume.map[0] = ZERO_ENTRY
        word = array("Q", [store.rows.where.items[row]])
        store.rows.give_back([row])
        store.pool.forget(word)
    assert not store.rows.where.items[row] and store.rows.live == (2 if compiled else 1)
    assert store.pool.live_bytes == live_bytes
    store.close()
