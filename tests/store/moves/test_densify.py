"""Densify: what is cold gets smaller and stays what it is, what is young or would not gain is left alone."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import zstandard

from blockstore.plane.codec.codec import digest
from blockstore.plane.codec.recompress import Recompressor
from blockstore.store.codec import CODEC
from blockstore.store.moves import densify as policy
from blockstore.store.moves.densify import HARD_AGE, Densify
from blockstore.store.state.geometry import (
    BLOCK_BYTES,
    COMPRESSED,
    DENSE,
    DENSE_PATCHED,
    ENCODING_MASK,
    ID_MASK,
    PATCH_BITS,
    PATCHED,
    RAW,
    SEGMENT_BYTES,
)
from blockstore.store.state.home import DirectoryHome, MemoryHome
from blockstore.store.state.location import pack, place_of, size_of
from blockstore.store.steps import Outcome, run
from blockstore.store.store import Store
from tests.store.columns import column
from tests.store.invariants import check_nothing_twice, check_store
from tests.store.material import contents, densify, encodings, half, kin, near, noise, put, steps_to_the_end, text

LIMIT_BYTES = 64 << 20
TEXTS, PATCHES = 700, 300
KINDRED = 300
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
    assert sum(map(store.pool.is_full, range(store.pool.segments.count))) >= 2
    return store


def finish(store: Store) -> int:
    """The rest of the pass; how many steps."""
    return steps_to_the_end(store.densify.step)


class Gain(NamedTuple):
    """A row's smaller record, which `replace` is to publish; `base` is the reference that it has, or may get."""

    row: int
    base: int
    record: bytes
    is_patch: bool
    was_patch: bool


def gains(store: Store, densify: Densify) -> Iterator[Gain]:
    """Of all batches of a pass, of which the last one is ready to be replaced."""
    while densify.pick():
        assert densify.encode()
        yield from gains_of_batch(store, densify)


def gains_of_batch(store: Store, densify: Densify) -> Iterator[Gain]:
    """Of the batch that was encoded last."""
    assert densify._batch is not None
    for row, base, record, is_patch in densify._batch.gains():
        yield Gain(row, base, record, is_patch, store.rows.where.items[row] & PATCH_BITS == PATCH_BITS)


def make_patch(store: Store, row: int, base: int) -> None:
    """Let a row that is none be a patch against another one."""
    rows, old = store.rows, store.rows.where.items[row]
    record = CODEC.encode_cold(store.decoder.content(row), store.decoder.content(base))
    placed = store.pool.log.append(record, array("Q", [len(record)]))
    assert placed is not None
    rows.reference.items[row] = base
    rows.dependents.items[base] += 1
    rows.where.items[row] = pack(placed[1], len(record), DENSE_PATCHED)
    store.pool.segments.live_bytes[place_of(old)] -= size_of(old)


def test_everything_gets_dense_and_stays_what_it_is(store: Store) -> None:
    volume, before = store.volumes[1], encodings(store)
    expected, live_bytes = contents(store, volume), store.record_bytes
    assert before.keys() == {RAW, COMPRESSED, PATCHED} and before[PATCHED] > PATCHES / 2
    densify(store)
    after = encodings(store)
    assert after[DENSE] > TEXTS / 2 and after[DENSE_PATCHED] > before[PATCHED] / 2
    assert after[RAW] == 50 and after[COMPRESSED] == 50, "noise, and what is small already"
    assert after.get(PATCHED, 0) + after[DENSE_PATCHED] >= before[PATCHED]
    assert store.record_bytes == live_bytes - store.densify.saved_bytes < 0.85 * live_bytes
    assert store.densify.replaced == after[DENSE] + after[DENSE_PATCHED]
    assert contents(store, volume) == expected
    check_store(store, decode=True)
    check_nothing_twice(store)


def test_only_full_segments_of_some_age_are_cold(store: Store) -> None:
    head = store.pool.head
    assert not store.densify.begin(100.0, COLD_AFTER_S), "they were seen for the first time just now"
    assert not store.densify.begin(100.0 + COLD_AFTER_S - 1, COLD_AFTER_S)
    assert store.densify.begin(100.0 + COLD_AFTER_S, COLD_AFTER_S) and finish(store)
    assert store.densify.replaced > 100
    where = column(store.rows.where)[column(store.rows.where) != 0]
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


def test_what_stays_cold_is_encoded_once_more() -> None:
    store = Store(MemoryHome(), LIMIT_BYTES)
    program = next(Path(zstandard.__file__).parent.glob("backend_c.*"))  # what the slower encoder is better at
    expected = program.read_bytes()
    put(store, store.create_volume(1, 1), 0, expected)
    later_s = HARD_AGE * COLD_AFTER_S
    for now_s in range(0, int(later_s) - 1, int(COLD_AFTER_S)):
        if store.densify.begin(now_s, COLD_AFTER_S):
            assert not store.densify.is_hard and finish(store)
    later_s += 2 * COLD_AFTER_S  # what became dense has filled segments of its own
    before, tried = store.record_bytes, store.densify.tried
    while store.densify.begin(later_s, COLD_AFTER_S):
        assert store.densify.is_hard and finish(store)
    assert store.densify.hard_tried > 100 and store.densify.tried == tried
    assert store.record_bytes < 0.99 * before and contents(store, store.volumes[1]) == expected
    check_store(store, decode=True)


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
    put(store, volume, volume.size_bytes, b"".join(text(20_000 + seed) for seed in range(2000)))
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
    assert not store.rows.live and not column(store.rows.dependents).any()


@pytest.fixture
def kindred() -> Store:
    """Texts, and blocks that have a third of one of them in them."""
    store = Store(MemoryHome(), LIMIT_BYTES)
    volume = store.create_volume(1, 1)
    put(store, volume, 0, b"".join(text(seed) for seed in range(KINDRED)))
    put(store, volume, volume.size_bytes, b"".join(kin(seed, seed) for seed in range(KINDRED)))
    return store


def test_a_block_of_its_own_becomes_a_patch(kindred: Store) -> None:
    volume, before = kindred.volumes[1], encodings(kindred)
    expected, patches = contents(kindred, volume), before.get(PATCHED, 0)
    densify(kindred)
    assert encodings(kindred)[DENSE_PATCHED] > patches + KINDRED // 20
    assert contents(kindred, volume) == expected
    check_store(kindred, decode=True)
    put(kindred, volume, 0, bytes(KINDRED * BLOCK_BYTES))
    assert contents(kindred, volume) == bytes(KINDRED * BLOCK_BYTES) + expected[KINDRED * BLOCK_BYTES :]
    check_store(kindred, decode=True)
    run(kindred.resize_steps(volume, 0))
    assert not kindred.rows.live and not column(kindred.rows.dependents).any()


@pytest.mark.parametrize("what", ("written anew", "a patch", "a reference"))
def test_a_reference_that_is_none_any_more_is_not_used(kindred: Store, what: str) -> None:
    volume, rows = kindred.volumes[1], kindred.rows
    kindred.densify.begin_all()
    gain = next(
        gain
        for gain in gains(kindred, kindred.densify)
        if gain.is_patch and not gain.was_patch and not rows.dependents.items[gain.base]
    )
    where, block = rows.where.items[gain.row], kindred.decoder.content(gain.row)
    if what == "written anew":
        number = next(number for number in range(volume.blocks) if volume.lookup(number) & ID_MASK == gain.base)
        put(kindred, volume, number * BLOCK_BYTES, noise(1) + noise(2))
    elif what == "a patch":
        others = (row for number in range(KINDRED) if (row := volume.lookup(number) & ID_MASK) != gain.base)
        make_patch(kindred, gain.base, next(others))
    else:
        for seed in range(20):  # until one of them is seen to be alike this one, and not one of its kin
            put(kindred, volume, volume.size_bytes, near(block, seed, 3))
            if rows.dependents.items[gain.row]:
                break
        assert rows.dependents.items[gain.row]
    expected = contents(kindred, volume)
    assert kindred.densify.replace()
    assert rows.where.items[gain.row] == where and contents(kindred, volume) == expected
    check_store(kindred, decode=True)
    finish(kindred)
    allowed = {DENSE} if what == "a reference" else {DENSE, DENSE_PATCHED}  # against another one
    assert rows.where.items[gain.row] & ENCODING_MASK in allowed, "it was picked again"
    assert contents(kindred, volume) == expected
    check_store(kindred, decode=True)


def changed(seed: int, end: int) -> bytes:
    """A block that starts as a text and ends otherwise: a patch against it, if features tell, and no good one."""
    return text(seed)[:1800] + noise(end)[: BLOCK_BYTES - 1800]


def kept_for_patches(store: Store) -> dict[int, int]:
    """References that are in no file: how many there are with so many patches."""
    rows = store.rows
    patches = column(rows.dependents)[(column(rows.count) == 0) & (column(rows.where) != 0)]
    return {number: int((patches == number).sum()) for number in (1, 2)}


@pytest.mark.parametrize("late", (False, True), ids=("cold after", "cold before"))
def test_a_reference_that_one_patch_keeps_is_given_up(late: bool) -> None:
    store = Store(MemoryHome(), LIMIT_BYTES)
    volume = store.create_volume(1, 1)
    put(store, volume, 0, b"".join(text(seed) for seed in range(40)))
    put(store, volume, volume.size_bytes, b"".join(changed(seed % 40, seed) for seed in range(60)))
    if late:
        densify(store)
    put(store, volume, 0, bytes(40 * BLOCK_BYTES))
    kept = kept_for_patches(store)
    expected, live_bytes = contents(store, volume), store.record_bytes
    assert kept[1] > 4 and kept[2] > 2
    saved_bytes = store.densify.saved_bytes
    densify(store)
    assert kept_for_patches(store) == {1: 0, 2: kept[2]}
    assert store.record_bytes == live_bytes - (store.densify.saved_bytes - saved_bytes) < live_bytes
    assert contents(store, volume) == expected
    check_store(store, decode=True)


def test_a_reference_that_is_in_use_again_is_kept() -> None:
    store = Store(MemoryHome(), LIMIT_BYTES)
    volume = store.create_volume(1, 1)
    put(store, volume, 0, b"".join(text(seed) for seed in range(40)))
    put(store, volume, 40 * BLOCK_BYTES, b"".join(changed(seed, seed) for seed in range(40)))
    put(store, volume, 0, bytes(40 * BLOCK_BYTES))
    store.densify.begin_all()
    gain = next(gain for gain in gains(store, store.densify) if gain.was_patch and not gain.is_patch)
    where = store.rows.where.items[gain.row]
    put(store, volume, 0, store.decoder.content(gain.base))
    assert store.densify.replace()
    assert store.rows.where.items[gain.row] == where, "it is as it was"
    finish(store)
    assert store.rows.where.items[gain.row] & PATCH_BITS == PATCH_BITS
    check_store(store, decode=True)


def test_what_changed_since_it_was_picked_is_left_alone(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    volume, rows = store.volumes[1], store.rows
    monkeypatch.setattr(policy, "BATCH_BLOCKS", 256)
    densify = Densify(store.pool, store.domains, store.dictionaries, store.similarity, store.tables, store._commit)
    densify.begin_all()
    while densify.pick() and densify.encode():
        gained = list(gains_of_batch(store, densify))
        gone = [gain for gain in gained if not rows.dependents.items[gain.row]][::2]
        blocks = {volume.lookup(block) & ID_MASK: block for block in range(volume.blocks)}
        for gain in gone:
            put(store, volume, blocks[gain.row] * BLOCK_BYTES, half(gain.row))
        expected, before = contents(store, volume), densify.replaced
        assert densify.replace()
        of_new_references = {gain.row for gain in gained if gain.is_patch and not gain.was_patch}
        left = len(gained) - len(gone) - (densify.replaced - before)
        assert 0 <= left <= len(of_new_references), "only what has lost its reference is left, too"
        assert contents(store, volume) == expected
    assert densify.replaced > 100
    check_store(store, decode=True)


def test_a_pass_ends_when_nothing_is_lent_any_more(store: Store) -> None:
    """And what was not encoded of a batch that was lent is picked again."""
    volume = store.volumes[1]
    expected = contents(store, volume)
    store.densify.begin_all()
    lent = [store.densify.lend() for _ in range(policy.MOST_LENT)]
    assert all(lent) and store.densify.lend() is None
    finish(store)
    assert store.densify.begin(0.0, 1e9), "it is under way"
    for batch in lent:
        assert batch is not None and batch.left == policy.LENT_BLOCKS and batch.encode(5, hard=False, gain_share=0.05)
        assert store.densify.settle(batch)
    finish(store)
    assert not store.densify.begin(0.0, 1e9)
    assert store.densify.tried > TEXTS and encodings(store)[DENSE] > TEXTS / 2
    assert contents(store, volume) == expected
    check_store(store, decode=True)


def test_without_room_what_was_lent_is_picked_again(store: Store) -> None:
    store.densify.begin_all()
    batch, log = store.densify.lend(), store.pool.log
    assert batch is not None and batch.encode(policy.LENT_BLOCKS, hard=False, gain_share=0.05)
    most, log.most_segments = log.most_segments, log.allocated_segments
    assert not store.densify.settle(batch) and not store.densify.replaced
    log.most_segments = most
    finish(store)
    assert encodings(store)[DENSE] > TEXTS / 2
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
    recompressor = Recompressor(
        gain_bytes=policy.GAIN_BYTES, patch_gain_bytes=policy.PATCH_GAIN_BYTES, enough_share=policy.ENOUGH_SHARE
    )

    def encoded(size: int) -> tuple[bytes, bool] | None:
        where = size << 3 | COMPRESSED
        return recompressor.encode(text(1), where, digest(text(1), 7), 7, hard=False, gain_share=policy.GAIN_SHARE)

    record = encoded(BLOCK_BYTES)
    assert record is not None
    size = len(record[0])
    assert not encoded(size) and not encoded(size + size // 25)
    assert encoded(size + size // 15)


def test_without_room_it_waits() -> None:
    store = Store(MemoryHome(), 16 << 20, patching=False)
    volume, filler = store.create_volume(1, 1), store.create_volume(2, 1)
    put(store, volume, 0, b"".join(text(seed) for seed in range(2000)))
    steps = store.write_steps(filler, 0, b"".join(noise(seed) for seed in range(6000)))
    while next(steps) is Outcome.WENT_ON:
        pass
    expected = contents(store, volume)
    store.densify.begin_all()
    while store.densify.step():
        pass
    assert store.densify.pick(), "the pass is not at its end"
    assert store.pool.allocated_segments <= 16 and contents(store, volume) == expected
    check_store(store, decode=True)
    run(store.delete_steps(filler))
    finish(store)
    assert not store.densify.pick() and store.densify.replaced > 1900
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
