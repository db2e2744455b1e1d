"""Volumes: maps cost what they hold, at any size, and sizes, edges and holes are as in a file."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from blockstore.errors import InputError
from blockstore.store.changes import CLONE_STEP_BLOCKS
from blockstore.store.ingest import SLICE_BLOCKS
from blockstore.store.state.geometry import BLOCK_BYTES
from blockstore.store.state.home import DirectoryHome, MemoryHome
from blockstore.store.steps import Outcome, Yielded, run
from blockstore.store.store import Store
from blockstore.store.volume import HEADER_BYTES, MAXIMUM_SIZE_BYTES, PAGE_ENTRIES, Volume, pack_size, unpack_size
from tests.store.invariants import check_store
from tests.store.material import contents, noise, put, text
from tests.store.places import Directory
from tests.store.state_files import State

PAGE_BYTES = 4096
TERABYTE = 1 << 40


@pytest.fixture
def store() -> Store:
    """An empty store in memory."""
    return Store(MemoryHome(), 64 << 20)


def host_bytes(volume: Volume) -> int:
    """What the file of the volume really costs."""
    return os.fstat(volume._fd).st_blocks * 512


def address(view: memoryview) -> int:
    return np.asarray(view).ctypes.data


def test_a_map_that_outgrows_its_addresses_leaves_views_as_they_are(store: Store) -> None:
    volume = store.create_volume(1, 1)
    put(store, volume, 0, noise(1) + noise(2))
    entries, before = volume.map, volume.lookup(1)
    run(store.resize_steps(volume, TERABYTE))
    assert address(volume.map) != address(entries), "64 MiB of addresses are not enough for this map"
    assert entries[1] == volume.map[1] == volume.lookup(1) == before
    put(store, volume, BLOCK_BYTES, noise(3))
    assert entries[1] == volume.map[1] == volume.lookup(1) != before, "both show the same memory"
    place = address(volume.map)
    run(store.resize_steps(volume, MAXIMUM_SIZE_BYTES))
    assert address(volume.map) == place
    check_store(store)


def test_a_sparse_terabyte_costs_little(store: Store) -> None:
    volume = store.create_volume(1, 1)
    assert volume.table_bytes == HEADER_BYTES
    run(store.resize_steps(volume, TERABYTE))
    assert volume.size_bytes == TERABYTE and volume.table_bytes == host_bytes(volume) == HEADER_BYTES
    offsets = [0, TERABYTE // 3, TERABYTE - 5000]
    for offset in offsets:
        put(store, volume, offset, noise(1))
    assert volume.touched_blocks == 5
    assert volume.table_bytes == host_bytes(volume) == HEADER_BYTES + 3 * PAGE_BYTES
    for offset in offsets:
        assert store.read(volume, offset, BLOCK_BYTES) == noise(1)
    assert store.read(volume, TERABYTE // 2, 10) == bytes(10)
    assert volume.seek(BLOCK_BYTES, data=True) == TERABYTE // 3 // BLOCK_BYTES * BLOCK_BYTES
    assert volume.seek(TERABYTE // 2, data=True) == (TERABYTE - 5000) // BLOCK_BYTES * BLOCK_BYTES
    assert volume.seek(0, data=False) == BLOCK_BYTES
    check_store(store)
    run(store.discard_steps(volume, 0, TERABYTE))
    assert store.rows.live == 0 and volume.touched_blocks == 0
    assert volume.size_bytes == TERABYTE
    assert volume.seek(0, data=True) == TERABYTE and volume.seek(0, data=False) == 0
    check_store(store)


def test_map_pages_come_back(store: Store) -> None:
    volume = store.create_volume(1, 1)
    span = PAGE_ENTRIES * BLOCK_BYTES
    for page in range(8):
        put(store, volume, page * span, text(1))
    assert volume.table_bytes == host_bytes(volume) == HEADER_BYTES + 8 * PAGE_BYTES
    run(store.resize_steps(volume, 8 * span))
    run(store.discard_steps(volume, 2 * span, 3 * span))
    assert volume.table_bytes == host_bytes(volume) == HEADER_BYTES + 5 * PAGE_BYTES
    run(store.resize_steps(volume, span))
    assert volume.table_bytes == host_bytes(volume) == HEADER_BYTES + PAGE_BYTES
    assert contents(store, volume)[: 2 * BLOCK_BYTES] == text(1) + bytes(BLOCK_BYTES)
    check_store(store)


def test_a_page_freed_in_pieces_comes_back_or_at_least_is_a_hole(store: Store) -> None:
    volume = store.create_volume(1, 1)
    put(store, volume, 0, noise(1) * PAGE_ENTRIES)
    for block in range(PAGE_ENTRIES):
        run(store.discard_steps(volume, block * BLOCK_BYTES, BLOCK_BYTES))
    assert volume.touched_blocks == 0 and store.rows.live == 0
    assert volume.seek(0, data=True) == volume.size_bytes
    check_store(store)


def test_the_largest_size(store: Store) -> None:
    volume = store.create_volume(1, 1)
    for steps in (
        store.resize_steps(volume, MAXIMUM_SIZE_BYTES + 1),
        store.write_steps(volume, MAXIMUM_SIZE_BYTES - 10, bytes(11)),
    ):
        with pytest.raises(InputError, match="too large"):
            run(steps)
    assert volume.size_bytes == 0
    run(store.resize_steps(volume, MAXIMUM_SIZE_BYTES))
    put(store, volume, MAXIMUM_SIZE_BYTES - 10, b"0123456789")
    assert store.read(volume, MAXIMUM_SIZE_BYTES - 12, 100) == b"\0\0" + b"0123456789"
    assert volume.size_bytes == MAXIMUM_SIZE_BYTES
    assert volume.table_bytes <= HEADER_BYTES + PAGE_BYTES
    store.close()


def test_maps_are_found_again(state_path: Path) -> None:
    store = Store(DirectoryHome(state_path), 64 << 20)
    volume = store.create_volume(5, 1)
    run(store.resize_steps(volume, TERABYTE + 5))
    put(store, volume, TERABYTE // 2, noise(7))
    before = (volume.size_bytes, volume.mtime_ns, volume.table_bytes)
    store.close()
    store = Store(DirectoryHome(state_path), 64 << 20)
    volume = store.volumes[5]
    assert (volume.size_bytes, volume.mtime_ns, volume.table_bytes) == before
    assert store.read(volume, TERABYTE // 2, BLOCK_BYTES) == noise(7)
    assert host_bytes(volume) == volume.table_bytes
    check_store(store)
    run(store.delete_steps(volume))
    assert not (state_path / "volume-5").exists()
    store.close()


def test_what_a_damaged_file_has_behind_the_longest_map_is_left_alone(state_path: Path) -> None:
    """Also where its data begins within the map, or the file is not whole pages long."""
    longest_bytes = HEADER_BYTES + MAXIMUM_SIZE_BYTES // BLOCK_BYTES * 8
    with closing(Store(DirectoryHome(state_path), 64 << 20)) as store:
        put(store, store.create_volume(1, 1), 0, noise(1))
    for place in (longest_bytes - 4, longest_bytes + PAGE_BYTES, longest_bytes + 3 * PAGE_BYTES - 1):
        with (state_path / "volume-1").open("r+b") as file:
            file.seek(place)
            file.write(bytes(8))
        with closing(Store(DirectoryHome(state_path), 64 << 20)) as store:
            assert contents(store, store.volumes[1]) == noise(1)
        os.truncate(state_path / "volume-1", HEADER_BYTES + PAGE_BYTES)


def test_times_before_1970_are_found_again(state_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a file, and of the machine's clock."""
    store = Store(DirectoryHome(state_path), 64 << 20)
    store.create_volume(5, 1).mtime_ns = -1
    with monkeypatch.context() as patch:
        patch.setattr("time.time_ns", lambda: -5)
        store.create_volume(6, 1)
    store.close()
    store = Store(DirectoryHome(state_path), 64 << 20)
    assert [store.volumes[number].mtime_ns for number in (5, 6)] == [-1, -5]
    assert [volume.mtime_ns for volume in State(Directory(state_path)).volumes] == [-1, -5]
    store.close()


@pytest.mark.parametrize("offset", (0, 1, 4095, 4096, 4097, 10_000, 20_480))
@pytest.mark.parametrize("length", (1, 100, 4095, 4096, 4097, 8192, 12_000))
@pytest.mark.parametrize("holes", ((), (0,), (1,), (2, 4)))
def test_discard_zeroes_exactly_its_range(store: Store, offset: int, length: int, holes: tuple[int, ...]) -> None:
    volume, size_bytes = store.create_volume(1, 1), 5 * BLOCK_BYTES + 100
    model = bytearray(noise(1) + noise(2) + noise(3) + noise(4) + noise(5) + noise(6)[:100])
    put(store, volume, 0, bytes(model))
    for block in holes:
        run(store.discard_steps(volume, block * BLOCK_BYTES, BLOCK_BYTES))
        model[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES] = bytes(BLOCK_BYTES)
    run(store.discard_steps(volume, offset, length))
    end = min(offset + length, size_bytes)
    model[offset:end] = bytes(max(end - offset, 0))
    assert volume.size_bytes == size_bytes
    assert contents(store, volume) == model
    for block in holes:
        assert volume.lookup(block) == 0, "a hole was filled with zeros"
    check_store(store)


def test_what_is_cut_off_does_not_come_back(store: Store) -> None:
    volume = store.create_volume(1, 1)
    put(store, volume, 0, noise(1) * 3)
    run(store.resize_steps(volume, BLOCK_BYTES + 10))
    run(store.resize_steps(volume, 3 * BLOCK_BYTES))
    assert contents(store, volume) == noise(1) + noise(1)[:10] + bytes(2 * BLOCK_BYTES - 10)
    check_store(store)


def test_a_hole_at_the_end_stays_one_in_a_clone(store: Store) -> None:
    """Also behind the end of the same file, which grows meanwhile."""
    source, other = store.create_volume(1, 1), store.create_volume(2, 1)
    run(store.resize_steps(source, BLOCK_BYTES + 1))
    for target in (other, source):
        run(store.clone_steps(source, 0, target, 2 * BLOCK_BYTES, BLOCK_BYTES + 1))
        assert target.size_bytes == 3 * BLOCK_BYTES + 1 and target.touched_blocks == 0
    check_store(store)


def test_a_clone_is_metadata(store: Store) -> None:
    source, target = store.create_volume(1, 1), store.create_volume(2, 1)
    put(store, source, 0, b"".join(noise(seed) for seed in range(50)) + b"end")
    rows, live_bytes = store.rows.live, store.pool.live_bytes
    run(store.clone_steps(source, 0, target, 0, source.size_bytes))
    assert contents(store, target) == contents(store, source)
    assert (store.rows.live, store.pool.live_bytes) == (rows, live_bytes)
    put(store, target, 0, b"changed")
    assert contents(store, source).startswith(noise(0))
    check_store(store)
    run(store.delete_steps(source))
    assert contents(store, target) == b"changed" + noise(0)[7:] + b"".join(map(noise, range(1, 50))) + b"end"
    check_store(store)


def test_cloning_nothing_changes_nothing(store: Store) -> None:
    source, target = store.create_volume(1, 1), store.create_volume(2, 1)
    put(store, source, 0, noise(1))
    run(store.clone_steps(source, 0, target, 3 * BLOCK_BYTES, 0))
    assert target.size_bytes == 0


def test_a_clone_that_is_given_up_leaves_nothing_beyond_the_size(store: Store) -> None:
    """An interrupted copy (a signal, no room) ends after some steps: what they did must be visible or undone."""
    source, target = store.create_volume(1, 1), store.create_volume(2, 1)
    put(store, source, 0, noise(1))
    put(store, source, 2 * CLONE_STEP_BLOCKS * BLOCK_BYTES, noise(2))
    steps = store.clone_steps(source, 0, target, 0, source.size_bytes)
    next(steps)
    steps.close()
    check_store(store)
    run(store.delete_steps(target))
    check_store(store)
    run(store.delete_steps(source))
    assert store.rows.live == 0


@pytest.mark.parametrize("offset", [0, 100])
def test_a_clone_takes_nothing_that_its_source_gets_meanwhile(store: Store, offset: int) -> None:
    """Neither whole blocks nor the rest of the last one, which would come to light when the target grows."""
    source, target = store.create_volume(1, 1), store.create_volume(2, 1)
    put(store, source, 0, noise(2))
    start = (SLICE_BLOCKS if offset else CLONE_STEP_BLOCKS) * BLOCK_BYTES
    put(store, source, start, noise(1) * 3 + b"end")
    size_bytes = source.size_bytes
    steps = store.clone_steps(source, 0, target, offset, size_bytes)
    assert next(steps) is Outcome.WENT_ON
    put(store, source, size_bytes, b"secret" * 1000)
    assert copied(steps) == size_bytes
    run(store.resize_steps(target, size_bytes + 10 * BLOCK_BYTES))
    assert contents(store, target)[offset + start :].rstrip(b"\0") == noise(1) * 3 + b"end"
    check_store(store)


@pytest.mark.parametrize("offset", [0, 7])
@pytest.mark.parametrize("left_bytes", [0, BLOCK_BYTES + 5, 300 * BLOCK_BYTES])
def test_a_clone_says_how_much_there_was(store: Store, offset: int, left_bytes: int) -> None:
    """Its source is cut off between two steps: what was copied is what the answer says, and the rest is untouched."""
    source, target = store.create_volume(1, 1), store.create_volume(2, 1)
    blocks, old = 400, noise(9)
    put(store, source, 0, b"".join(noise(seed) for seed in range(blocks)))
    put(store, target, 0, old * (blocks + 1))
    steps = store.clone_steps(source, 0, target, offset, blocks * BLOCK_BYTES)
    if offset:
        next(steps)  # the first slice is done
    run(store.resize_steps(source, left_bytes))
    done = copied(steps)
    assert done >= left_bytes
    found = contents(store, target)
    whole = b"".join(noise(seed) for seed in range(blocks))
    assert found[offset : offset + done] == whole[:done]
    assert found[offset + done :] == (old * (blocks + 1))[offset + done :] and found[:offset] == old[:offset]
    check_store(store)


def copied(steps: Generator[Yielded, None, int]) -> int:
    """Take all steps; what they return."""
    while True:
        try:
            assert next(steps) is Outcome.WENT_ON
        except StopIteration as end:
            return int(end.value)


def test_reading_past_the_end(store: Store) -> None:
    volume = store.create_volume(1, 1)
    put(store, volume, 0, noise(1)[:100])
    assert store.read(volume, 0, 1000) == noise(1)[:100]
    assert store.read(volume, 100, 10) == b"" == store.read(volume, 10**9, 10)


def test_mtime_moves_when_content_does(store: Store) -> None:
    volume = store.create_volume(1, 1)
    for steps in (
        store.write_steps(volume, 0, noise(1)),
        store.discard_steps(volume, 0, 100),
        store.resize_steps(volume, 50),
        store.clone_steps(volume, 0, volume, 4096, 50),
    ):
        volume.mtime_ns = 12345
        run(steps)
        assert volume.mtime_ns > 12345
    volume.mtime_ns = 12345
    store.read(volume, 0, 10)
    assert volume.mtime_ns == 12345
    assert all(volume.entries(0, 2))


@pytest.mark.parametrize("size_bytes", (0, 1, 4096, 5_000_000_123, 1 << 30, (1 << 44) - 1, 1 << 44))
def test_a_damaged_size_is_not_believed(size_bytes: int) -> None:
    word = pack_size(size_bytes)
    assert unpack_size(word) == size_bytes and word < 1 << 64
    for bit in range(64):
        assert unpack_size(word ^ 1 << bit) is None
