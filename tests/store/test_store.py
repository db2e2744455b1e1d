"""The Store at its limits: no room, damaged records, mechanisms that must engage, steps that must stay small."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from blockstore.errors import CorruptBlock, OutOfRoom
from blockstore.plane.blocks import ranges
from blockstore.store.changes import DISCARD_STEP_BLOCKS
from blockstore.store.state.geometry import (
    BLOCK_BYTES,
    COMPRESSED,
    ID_MASK,
    PAGED,
    PATCHED,
    PIECE_MASK,
    RAW,
    SEGMENT_BYTES,
    WHERE_SEGMENT_SHIFT,
)
from blockstore.store.state.home import DirectoryHome, MemoryHome
from blockstore.store.state.location import offset_of, size_of
from blockstore.store.steps import Outcome, run
from blockstore.store.store import Store
from tests.store.columns import column
from tests.store.invariants import check_nothing_twice, check_store
from tests.store.material import contents, encodings, half, near, noise, put, text

LIMIT_BYTES = 16 << 20

LET_GO = 1 << 16
"""Words of records in the tier that the log notes at most (plane/tables/log.pxd)."""


def test_each_mechanism_engages() -> None:
    store = Store(MemoryHome(), LIMIT_BYTES)
    first, second = store.create_volume(1, 1), store.create_volume(2, 1)
    put(store, first, 0, text(1) + noise(1) + bytes(BLOCK_BYTES) + text(2))
    assert encodings(store) == {COMPRESSED: 2, RAW: 1}
    live_bytes = store.pool.live_bytes
    put(store, second, 0, text(1) + noise(1) + bytes(BLOCK_BYTES))
    assert store.rows.live == 3 and store.pool.live_bytes == live_bytes
    put(store, second, 1 << 20, near(text(1), 1) + near(text(2), 2))
    assert encodings(store) == {COMPRESSED: 2, RAW: 1, PATCHED: 2}
    assert store.pool.live_bytes < live_bytes + 300
    assert contents(store, second)[1 << 20 :] == near(text(1), 1) + near(text(2), 2)
    assert second.touched_blocks == 5
    check_store(store, decode=True)


def test_the_same_content_twice_in_one_write_is_one_row() -> None:
    store = Store(MemoryHome(), LIMIT_BYTES)
    volume = store.create_volume(1, 1)
    put(store, volume, 0, (text(1) + noise(2) + bytes(BLOCK_BYTES)) * 50)
    assert store.rows.live == 2 and sorted(column(store.rows.count)[column(store.rows.count) > 0]) == [50, 50]
    check_store(store, decode=True)


def test_without_patching_there_are_no_patches() -> None:
    store = Store(MemoryHome(), LIMIT_BYTES, patching=False)
    volume = store.create_volume(1, 1)
    for seed in range(20):
        put(store, volume, seed * BLOCK_BYTES, near(text(1), seed))
    assert encodings(store) == {COMPRESSED: 20}


def test_a_reference_outlives_its_last_map_entry_and_no_longer() -> None:
    store = Store(MemoryHome(), LIMIT_BYTES)
    volume = store.create_volume(1, 1)
    put(store, volume, 0, text(1))
    put(store, volume, 1 << 20, near(text(1), 1))
    assert encodings(store) == {COMPRESSED: 1, PATCHED: 1}
    put(store, volume, 0, noise(5))
    assert encodings(store) == {COMPRESSED: 1, PATCHED: 1, RAW: 1}
    assert store.read(volume, 1 << 20, BLOCK_BYTES) == near(text(1), 1)
    put(store, volume, 1 << 20, near(text(1), 2))  # a reference that nothing maps is no candidate for new patches
    assert encodings(store) == {COMPRESSED: 1, RAW: 1}
    check_store(store, decode=True)


def test_domains_share_nothing() -> None:
    store = Store(MemoryHome(), LIMIT_BYTES)
    first, second = store.create_volume(1, 1), store.create_volume(2, 2)
    data = text(1) + noise(1)
    put(store, first, 0, data)
    put(store, second, 0, data)
    put(store, second, 1 << 20, near(noise(1), 1))
    put(store, first, 1 << 20, near(text(1), 1))
    check_store(store, decode=True)
    assert store.rows.live == 6
    assert len(np.unique(column(store.rows.digest)[column(store.rows.where) != 0])) == 6
    run(store.delete_steps(first))
    assert contents(store, second)[: len(data)] == data
    check_store(store, decode=True)


def fill(store: Store, number: int) -> bytes:
    """A new volume, written until there is no room; what was accepted."""
    volume, seed = store.create_volume(number, 1), 100_000 * number
    whole = b""
    for blocks in (32, 1):
        while True:
            data = b"".join(map(noise, range(seed, seed + blocks)))
            seed += blocks
            try:
                put(store, volume, len(whole), data)
            except OutOfRoom:
                break
            whole += data
    assert contents(store, volume)[: len(whole)] == whole
    run(store.resize_steps(volume, len(whole)))
    return whole


def test_out_of_room_loses_nothing_and_ends_when_room_is_made() -> None:
    store = Store(MemoryHome(), LIMIT_BYTES)
    small = store.create_volume(1, 1)
    put(store, small, 0, noise(1))
    whole = fill(store, 2)
    assert len(whole) > LIMIT_BYTES // 2
    check_store(store, decode=True)
    table = (store.rows.live, store.pool.allocated_segments, store.pool.segments.live_bytes.tolist())
    steps = store.write_steps(small, 0, b"".join(noise(5000 + block) for block in range(256)))
    taken = [next(steps)]
    while taken[-1] is Outcome.WENT_ON:
        taken.append(next(steps))
    for _ in range(5):
        assert next(steps) is Outcome.NO_ROOM, "a step without room went on"
        check_store(store, decode=True)
    assert contents(store, store.volumes[2]) == whole
    if len(taken) == 1:
        assert table == (store.rows.live, store.pool.allocated_segments, store.pool.segments.live_bytes.tolist())
        assert contents(store, small) == noise(1)
    run(store.delete_steps(store.volumes[2]))
    assert all(outcome is Outcome.WENT_ON for outcome in steps), "there is room now"
    assert contents(store, small) == b"".join(noise(5000 + block) for block in range(256))
    check_store(store, decode=True)


def test_what_needs_no_room_works_without_room() -> None:
    store = Store(MemoryHome(), LIMIT_BYTES)
    whole = fill(store, 1)
    volume, clone = store.volumes[1], store.create_volume(2, 1)
    run(store.clone_steps(volume, 0, clone, 0, len(whole)))
    put(store, volume, 0, bytes(100 * BLOCK_BYTES))
    put(store, volume, 0, whole[: 50 * BLOCK_BYTES])  # contents that the clone still has
    run(store.discard_steps(clone, 4 * BLOCK_BYTES, 4 * BLOCK_BYTES))
    expected = whole[: 50 * BLOCK_BYTES] + bytes(50 * BLOCK_BYTES) + whole[100 * BLOCK_BYTES :]
    assert contents(store, volume) == expected
    check_store(store, decode=True)


def test_a_write_that_stalled_does_not_bring_back_the_rest_of_its_block() -> None:
    """While part of a block waits for room, the block may be discarded; nothing of the write was done before that."""
    store = Store(MemoryHome(), LIMIT_BYTES)
    fill(store, 1)
    volume = store.volumes[1]
    steps = store.write_steps(volume, 100, noise(99)[:3000])
    assert next(steps) is Outcome.NO_ROOM
    run(store.discard_steps(volume, 0, 4 << 20))
    assert all(outcome is Outcome.WENT_ON for outcome in steps)
    assert contents(store, volume)[:BLOCK_BYTES] == bytes(100) + noise(99)[:3000] + bytes(BLOCK_BYTES - 3100)
    check_store(store, decode=True)


def test_a_clone_that_stalled_takes_what_is_there_when_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A clone waits for a page of the target's map; meanwhile its source is overwritten and the rows are freed."""
    store = Store(MemoryHome(), LIMIT_BYTES)
    source, target = store.create_volume(1, 1), store.create_volume(2, 1)
    other = store.create_volume(3, 2)
    put(store, source, 0, noise(1) + text(1))

    def full(first: int, count: int) -> None:
        raise OutOfRoom("the file system is full")

    with monkeypatch.context() as patch:
        patch.setattr(target, "prepare", full)
        steps = store.clone_steps(source, 0, target, 0, 2 * BLOCK_BYTES)
        assert next(steps) is Outcome.NO_ROOM
        put(store, source, 0, noise(2) + text(2))
    put(store, other, 0, noise(3) + text(3))  # may take the rows that were freed
    assert all(outcome is Outcome.WENT_ON for outcome in steps)
    check_store(store, decode=True)
    assert contents(store, target) == noise(2) + text(2)
    assert contents(store, other) == noise(3) + text(3)


def test_unaligned_discard_and_truncation_make_their_own_room() -> None:
    """They free whole blocks and rewrite one or two: at the limit the freed ones must pay for these."""
    for cut in ("discard", "resize"):
        store = Store(MemoryHome(), LIMIT_BYTES)
        whole = fill(store, 1)
        volume = store.volumes[1]
        start = len(whole) // 2 + 100
        if cut == "discard":
            run(store.discard_steps(volume, start, len(whole)))
        else:
            run(store.resize_steps(volume, start))
        assert contents(store, volume).rstrip(b"\0") == whole[:start].rstrip(b"\0")
        check_store(store, decode=True)


def test_overwriting_at_the_limit_is_paid_by_compaction() -> None:
    store = Store(MemoryHome(), LIMIT_BYTES)
    volume, chance = store.create_volume(1, 1), random.Random(1)
    blocks = (LIMIT_BYTES - 4 * SEGMENT_BYTES) // BLOCK_BYTES * 3 // 4
    model = {block: noise(block) for block in range(blocks)}
    put(store, volume, 0, b"".join(model.values()))
    for turn in range(4000):
        block = chance.randrange(blocks)
        model[block] = noise(10_000 + turn)
        put(store, volume, block * BLOCK_BYTES, model[block])
    assert contents(store, volume) == b"".join(model.values())
    check_store(store, decode=True)


def small(seed: int) -> bytes:
    """A block with a record of some two hundred bytes: five thousand of them fill a segment."""
    return (noise(seed)[:160] * (BLOCK_BYTES // 160 + 1))[:BLOCK_BYTES]


@pytest.mark.parametrize(
    ("make", "freed"),
    ((noise, 2), (noise, 4), *(pytest.param(small, each, marks=pytest.mark.nightly) for each in (2, 4))),
)
def test_garbage_is_reclaimed_before_a_write_stalls(
    make: Callable[[int], bytes], freed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full pool, then one of `freed` blocks is freed all over it: writes must get that room, in small steps."""
    limit_bytes = 10 << 20
    store = Store(MemoryHome(), limit_bytes, patching=False)
    full, volume, seed = store.create_volume(1, 1), store.create_volume(2, 1), 0
    with pytest.raises(OutOfRoom):
        while True:
            put(store, full, seed * BLOCK_BYTES, b"".join(map(make, range(seed, seed + 256))))
            seed += 256
    for block in range(0, full.blocks, freed):
        run(store.discard_steps(full, block * BLOCK_BYTES, BLOCK_BYTES))
    calls, step = [0], store.upkeep.step

    def counted() -> bool:
        calls[-1] += 1
        return step()

    monkeypatch.setattr(store.upkeep, "step", counted)
    expected, stalled = b"", False
    while not stalled:
        data = b"".join(map(noise, range(1_000_000 + len(expected), 1_000_000 + len(expected) + 64)))
        for outcome in store.write_steps(volume, len(expected), data):
            calls.append(0)
            if outcome is Outcome.NO_ROOM:
                stalled = True
                break
        else:
            expected += data
    check_store(store)
    assert contents(store, volume)[: len(expected)] == expected
    garbage = store.pool.garbage_bytes / limit_bytes
    assert garbage < 0.15, f"a write stalls while {garbage:.0%} of the pool is garbage"
    assert max(calls) <= 4, f"one step of a write did {max(calls)} steps of compaction: store.py promises a millisecond"
    assert store.pool.allocated_segments < limit_bytes // SEGMENT_BYTES, "compaction has no segment left to work with"


@pytest.mark.parametrize("damage", range(4))
def test_damaged_records_are_never_served(damage: int) -> None:
    """Flip single bits anywhere in the live part of the pool: a read gives the right bytes or raises CorruptBlock."""
    store = Store(MemoryHome(), LIMIT_BYTES)
    volume = store.create_volume(1, 1)
    blocks = [noise(1), *map(text, range(40)), *map(half, range(20))]
    put(store, volume, 0, b"".join(blocks))
    patches = [near(text(seed), seed + 100, 20) for seed in range(40)]
    blocks += patches
    put(store, volume, volume.size_bytes, b"".join(patches))
    assert encodings(store)[PATCHED] >= 35
    chance, refused, view = random.Random(damage), 0, store.pool.view
    records = [word for word in column(store.rows.where).tolist() if word]
    for _ in range(200):
        word = chance.choice(records)
        position = offset_of(word) + chance.randrange(size_of(word))
        was = view[position]
        view[position] = was ^ 1 << chance.randrange(8)
        for place, block in enumerate(blocks):
            try:
                found = store.read(volume, place * BLOCK_BYTES, BLOCK_BYTES)
            except CorruptBlock as error:
                refused += 1
                row = volume.lookup(place) & ID_MASK
                assert error.block_id in (row, store.rows.reference.items[row])
            else:
                assert found == block
        view[position] = was
    assert refused >= 200  # each flip at least in one block, except where LZ4 does not care
    assert contents(store, volume) == b"".join(blocks)


def test_damage_does_not_spread_to_new_writes() -> None:
    store = Store(MemoryHome(), LIMIT_BYTES)
    volume = store.create_volume(1, 1)
    originals = [text(seed) for seed in range(20)]
    put(store, volume, 0, b"".join(originals))
    chance = random.Random(1)
    for word in [word for word in column(store.rows.where).tolist() if word]:
        for _ in range(20):
            position = offset_of(word) + chance.randrange(size_of(word))
            store.pool.view[position] ^= 1 << chance.randrange(8)
    again = b"".join(originals)
    similar = b"".join(near(block, 1) for block in originals)
    put(store, volume, 1 << 20, again + similar)
    assert store.read(volume, 1 << 20, len(again + similar)) == again + similar
    with pytest.raises(CorruptBlock):
        run(store.write_steps(volume, 10, b"part of a damaged block"))
    put(store, volume, 0, again)
    assert store.read(volume, 0, len(again)) == again
    check_store(store)


def test_a_patch_against_a_reference_that_is_damaged_later() -> None:
    store = Store(MemoryHome(), LIMIT_BYTES)
    volume = store.create_volume(1, 1)
    put(store, volume, 0, text(1))
    put(store, volume, BLOCK_BYTES, near(text(1), 1))
    assert encodings(store) == {COMPRESSED: 1, PATCHED: 1}
    reference = volume.lookup(0) & ID_MASK
    where = store.rows.where.items[reference]
    offset, size_bytes = offset_of(where), size_of(where)
    store.pool.view[offset : offset + size_bytes] = bytes(size_bytes)
    for block in range(2):
        with pytest.raises(CorruptBlock):
            store.read(volume, block * BLOCK_BYTES, 10)


def test_tables_stay_in_their_budget() -> None:
    """docs/decisions.md, "The truth is small": all tables under 1.5 % of the logical memory stored."""
    store = Store(MemoryHome(), 256 << 20)
    volume = store.create_volume(1, 1)
    for first in range(0, 50_000, 1000):
        data = b"".join((first + place + 1).to_bytes(8) * 512 for place in range(1000))
        put(store, volume, first * BLOCK_BYTES, data)
    assert store.rows.live == 50_000
    assert store.table_bytes < 0.015 * volume.size_bytes


def test_deleting_everything_gives_everything_back(state_path: Path) -> None:
    store = Store(DirectoryHome(state_path), LIMIT_BYTES)
    for number in (1, 2, 3):
        put(store, store.create_volume(number, number % 2 + 1), 0, b"".join(map(text, range(50))))
    for volume in list(store.volumes.values()):
        run(store.delete_steps(volume))
    assert store.rows.live == 0 and not any(store.pool.segments.live_bytes)
    assert store.pool.allocated_segments <= 2  # head and spare
    assert not [name for name in (path.name for path in state_path.iterdir()) if name.startswith("volume-")]
    check_store(store)
    check_nothing_twice(store)
    store.close()
    store = Store(DirectoryHome(state_path), LIMIT_BYTES)
    assert not store.volumes and store.pool.allocated_bytes == 0
    store.close()


def test_a_discard_finds_room_to_note_what_writes_have_let_go() -> None:
    """Of records in the tier nobody need have taken anything back: encoders wake Python for segments alone."""
    store = Store(MemoryHome(), 512 << 20, patching=False)
    volume, blocks = store.create_volume(1, 1), LET_GO // 2 + 2 * DISCARD_STEP_BLOCKS
    other = store.create_volume(2, 1)
    for target in (volume, other):
        data = b"".join((target.number << 32 | block).to_bytes(8) * 512 for block in range(blocks))
        put(store, target, 0, data)
    column(store.rows.where)[column(store.rows.where) != 0] |= np.uint64(PAGED | PIECE_MASK << WHERE_SEGMENT_SHIFT)
    with pytest.raises(ValueError, match="at once"):
        for target in (volume, other):
            for first in range(0, blocks - blocks % DISCARD_STEP_BLOCKS, DISCARD_STEP_BLOCKS):
                ranges.discard(store._commit, target.block_map, first, DISCARD_STEP_BLOCKS)
    run(store.clone_steps(other, 0, volume, 0, other.size_bytes))
    for target in (volume, other):
        run(store.discard_steps(target, 0, target.size_bytes))
    assert store.rows.live == 0 and not store.pool.log.has_let_go
