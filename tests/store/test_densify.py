"""Densify: what is cold gets smaller and stays what it is, what is young or would not gain is left alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from blockstore.store.codec import digest
from blockstore.store.densify import Cold, encode
from blockstore.store.geometry import (
    BLOCK_BYTES,
    COMPRESSED,
    DENSE,
    DENSE_PATCHED,
    ENCODING_MASK,
    ID_MASK,
    PATCHED,
    RAW,
    SEGMENT_BYTES,
)
from blockstore.store.home import DirectoryHome, MemoryHome
from blockstore.store.store import Store, run
from tests.store.invariants import check_nothing_twice, check_store
from tests.store.material import contents, densify, encodings, half, near, noise, put, steps_to_the_end, text

LIMIT_BYTES = 64 << 20
TEXTS, PATCHES = 700, 300
COLD_AFTER_S = 30.0


@pytest.fixture
def store() -> Store:
    """Texts, patches against them, noise, and blocks that compress to almost nothing: two segments and a head."""
    store = Store(MemoryHome(), LIMIT_BYTES)
    volume = store.create_volume(1, 1)
    put(store, volume, 0, b"".join(text(seed) for seed in range(TEXTS)))
    put(store, volume, volume.size_bytes, b"".join(near(text(seed), seed, 60) for seed in range(PATCHES)))
    put(store, volume, volume.size_bytes, b"".join(map(noise, range(50))))
    put(store, volume, volume.size_bytes, b"".join(bytes([1 + seed]) * BLOCK_BYTES for seed in range(50)))
    assert store.pool.full_segments().sum() >= 2
    return store


def finish(store: Store) -> int:
    """The rest of the pass; how many steps."""
    return steps_to_the_end(store.densify.step)


def test_everything_gets_dense_and_stays_what_it_is(store: Store) -> None:
    volume, before = store.volumes[1], encodings(store)
    expected, live_bytes = contents(store, volume), int(store.pool.live_bytes.sum())
    assert before.keys() == {RAW, COMPRESSED, PATCHED} and before[PATCHED] > PATCHES / 2
    dependents = store.rows.dependents.array.copy()
    densify(store)
    after = encodings(store)
    assert after[DENSE] >= TEXTS and after[DENSE_PATCHED] > before[PATCHED] / 2
    assert after[RAW] == 50 and after[COMPRESSED] == 50, "noise, and what is small already"
    assert after.get(PATCHED, 0) + after[DENSE_PATCHED] == before[PATCHED]
    assert int(store.pool.live_bytes.sum()) == live_bytes - store.densify.saved_bytes < 0.85 * live_bytes
    assert store.densify.replaced == after[DENSE] + after[DENSE_PATCHED]
    assert (store.rows.dependents.array == dependents).all()
    assert contents(store, volume) == expected
    check_store(store, decode=True)
    check_nothing_twice(store)


def test_only_full_segments_of_some_age_are_cold(store: Store) -> None:
    head = store.pool.head
    assert not store.densify.begin(100.0, COLD_AFTER_S), "they were seen for the first time just now"
    assert not store.densify.begin(100.0 + COLD_AFTER_S - 1, COLD_AFTER_S)
    assert store.densify.begin(100.0 + COLD_AFTER_S, COLD_AFTER_S) and finish(store)
    assert store.densify.replaced > 100
    where = store.rows.where.array[store.rows.where.array != 0]
    of_head = where[where >> np.uint64(36) == head] & np.uint64(ENCODING_MASK)
    assert COMPRESSED in of_head or PATCHED in of_head, "the head is not cold"
    check_store(store, decode=True)


def test_each_segment_is_looked_at_once(store: Store) -> None:
    assert store.densify.begin(0.0, 0.0) and finish(store)
    tried = store.densify.tried
    while store.densify.begin(1000.0, 0.0):  # what was replaced has filled segments: nothing in them is tried again
        finish(store)
    assert store.densify.tried - tried <= 2 * SEGMENT_BYTES / 500, "the head was filled meanwhile, and nothing else"
    tried = store.densify.tried
    assert not store.densify.begin(2000.0, 0.0) and store.densify.tried == tried


def test_a_segment_that_is_filled_anew_is_looked_at_again(store: Store) -> None:
    volume = store.volumes[1]
    assert store.densify.begin(0.0, 0.0) and finish(store)
    run(store.resize_steps(volume, 0))
    while store.upkeep.step(quiet=True):
        pass
    put(store, volume, 0, b"".join(text(10_000 + seed) for seed in range(TEXTS)))
    replaced = store.densify.replaced
    assert store.densify.begin(5.0, 0.0) and finish(store)
    assert store.densify.replaced > replaced + 200


def test_the_room_comes_back_by_compaction(store: Store) -> None:
    volume = store.volumes[1]
    put(store, volume, volume.size_bytes, b"".join(text(20_000 + seed) for seed in range(4000)))
    expected, before = contents(store, volume), store.pool.allocated_bytes
    densify(store)
    while store.upkeep.due(quiet=True) and store.upkeep.step(quiet=True):
        pass
    assert store.pool.allocated_bytes < 0.8 * before
    assert contents(store, volume) == expected
    check_store(store, decode=True)


def test_new_writes_may_share_with_and_patch_against_what_is_dense() -> None:
    store = Store(MemoryHome(), LIMIT_BYTES)
    volume = store.create_volume(1, 1)
    put(store, volume, 0, text(1) + text(2))
    densify(store)
    assert encodings(store) == {DENSE: 2}
    put(store, volume, 2 * BLOCK_BYTES, text(1) + near(text(2), 1))
    assert encodings(store) == {DENSE: 2, PATCHED: 1}
    densify(store)
    put(store, volume, 0, noise(1) + noise(2))
    assert contents(store, volume) == noise(1) + noise(2) + text(1) + near(text(2), 1)
    check_store(store, decode=True)
    run(store.resize_steps(volume, 0))
    assert not store.rows.live and not store.rows.dependents.array.any()


def test_what_changed_since_it_was_picked_is_left_alone(store: Store) -> None:
    volume = store.volumes[1]
    store.densify.begin_all()
    gains = []
    while picked := store.densify.pick():
        gains += encode(picked)
    gone = [gain for gain in gains if not store.rows.dependents.items[gain.cold.row]][::2]
    blocks = {volume.lookup(block) & ID_MASK: block for block in range(volume.blocks)}
    for gain in gone:
        put(store, volume, blocks[gain.cold.row] * BLOCK_BYTES, half(gain.cold.row))
    expected = contents(store, volume)
    assert store.densify.replace(gains)
    assert gone and store.densify.replaced == len(gains) - len(gone)
    assert contents(store, volume) == expected
    check_store(store, decode=True)


def test_a_damaged_record_stays_as_it_is() -> None:
    store = Store(MemoryHome(), LIMIT_BYTES)
    put(store, store.create_volume(1, 1), 0, noise(1)[:1500] + bytes(BLOCK_BYTES - 1500))
    row = store.volumes[1].lookup(0) & ID_MASK
    where = store.rows.where.items[row]
    store.pool.view[(where >> 16) + 700] ^= 4
    densify(store)
    assert store.rows.where.items[row] == where and not store.densify.replaced


def test_too_small_a_gain_is_none() -> None:
    def cold(size: int, block: bytes) -> Cold:
        return Cold(3, size << 3 | COMPRESSED, 0, digest(block, 7), 7, block, b"")

    block = text(1)
    size = len(encode([cold(BLOCK_BYTES, block)])[0].record)
    assert not encode([cold(size, block)]) and not encode([cold(size + size // 25, block)])
    assert encode([cold(size + size // 15, block)])


def test_without_room_it_waits() -> None:
    store = Store(MemoryHome(), 16 << 20, patching=False)
    volume, filler = store.create_volume(1, 1), store.create_volume(2, 1)
    put(store, volume, 0, b"".join(text(seed) for seed in range(2000)))
    steps = store.write_steps(filler, 0, b"".join(noise(seed) for seed in range(6000)))
    while next(steps):
        pass
    expected = contents(store, volume)
    store.densify.begin_all()
    while store.densify.step():
        pass
    assert store.densify.pick() is not None, "the pass is not at its end"
    assert store.pool.allocated_segments <= 16 and contents(store, volume) == expected
    check_store(store, decode=True)
    run(store.delete_steps(filler))
    finish(store)
    assert store.densify.pick() is None and store.densify.replaced > 1900
    assert contents(store, volume) == expected
    check_store(store, decode=True)


def test_a_larger_limit_in_the_middle_of_a_pass(store: Store) -> None:
    assert store.densify.begin(0.0, 0.0) and store.densify.step()
    store.pool.set_limit(4 * LIMIT_BYTES)
    finish(store)
    put(store, store.volumes[1], 0, b"".join(text(30_000 + seed) for seed in range(TEXTS)))
    assert store.densify.begin(1.0, 0.0) and finish(store)
    check_store(store, decode=True)


def test_what_is_dense_outlives_the_process(state_path: Path) -> None:
    store = Store(DirectoryHome(state_path), LIMIT_BYTES)
    volume = store.create_volume(1, 1)
    put(store, volume, 0, b"".join(text(seed) for seed in range(20)))
    put(store, volume, volume.size_bytes, b"".join(near(text(seed), seed, 60) for seed in range(20)))
    densify(store)
    expected, before = contents(store, volume), encodings(store)
    assert before[DENSE] and before[DENSE_PATCHED]
    store.close()
    store = Store(DirectoryHome(state_path), LIMIT_BYTES)
    assert encodings(store) == before and contents(store, store.volumes[1]) == expected
    check_store(store, decode=True)
    store.close()
