"""What is encoded without the store lock is committed only as far as it is still right."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockstore.plane.blocks.encode import Batch
from blockstore.plane.codec.codec import Codec
from blockstore.store.ingest import RAW_FROM_BYTES, Extent
from blockstore.store.state.geometry import BLOCK_BYTES, ENCODING_MASK, ID_MASK, PATCHED, ZERO_BLOCK, ZERO_ENTRY
from blockstore.store.state.home import MemoryHome
from blockstore.store.steps import run
from blockstore.store.store import Store
from blockstore.store.volume import Volume
from tests.daemon.lab import until
from tests.store.invariants import check_nothing_twice, check_store
from tests.store.material import contents, densify, half, near, noise, put, text

LIMIT_BYTES = 64 << 20


@pytest.fixture
def store() -> Store:
    return Store(MemoryHome(), LIMIT_BYTES)


def encode(store: Store, volume: Volume, data: bytes) -> Batch:
    return store._ingest.encode(volume.domain, [memoryview(data)])


def commit(store: Store, batch: Batch, volume: Volume, first: int, data: bytes) -> None:
    volume.cover(first + batch.blocks)
    store._ingest.commit(batch, [Extent(volume, first, memoryview(data))])
    store._ingest.give_back(batch)
    volume.set_size(max(volume.size_bytes, (first + len(data) // BLOCK_BYTES) * BLOCK_BYTES))


def encoding(store: Store, volume: Volume, block: int) -> int:
    return store.rows.where.items[volume.lookup(block) & ID_MASK] & ENCODING_MASK


def test_what_two_have_encoded_at_once_is_stored_once(store: Store) -> None:
    volume = store.create_volume(1, 1)
    data = text(1) + noise(1) + text(1)
    batches = [encode(store, volume, data) for _ in range(3)]
    assert len(set(map(id, batches))) == 3 and [batch.contents for batch in batches] == [2] * 3
    for number, batch in enumerate(batches):
        commit(store, batch, volume, number * 3, data)
    assert store.rows.live == 2 and contents(store, volume) == data * 3
    check_nothing_twice(store)
    check_store(store, decode=True)


def test_what_is_written_to_a_volume_that_is_deleted_meanwhile_is_dropped(store: Store) -> None:
    volume, other = store.create_volume(1, 1), store.create_volume(2, 1)
    put(store, volume, 0, text(1))
    put(store, other, 0, text(1) + noise(1))
    steps = store.write_steps(volume, 0, text(2))
    writer = threading.Thread(target=run, args=(steps,))
    with store.lock:
        writer.start()
        until(store.lock.somebody_waits, "the writer has encoded")
        run(store._delete(volume))
    writer.join()
    assert volume.deleted and list(store.volumes) == [2] and store.rows.live == 2
    assert contents(store, other) == text(1) + noise(1)
    check_store(store, decode=True)


def free_it(store: Store, volume: Volume) -> None:
    run(store.discard_steps(volume, 0, BLOCK_BYTES))


def replace_it(store: Store, volume: Volume) -> None:
    put(store, volume, 0, half(9))


def move_it(store: Store, volume: Volume) -> None:
    where = store.rows.where.items[volume.lookup(0) & ID_MASK]
    densify(store)
    assert store.rows.where.items[volume.lookup(0) & ID_MASK] != where


def keep_it_for_patches_only(store: Store, volume: Volume) -> None:
    put(store, volume, 5 * BLOCK_BYTES, near(text(1), 5))
    assert encoding(store, volume, 5) == PATCHED
    free_it(store, volume)


CHANGES: list[Callable[[Store, Volume], None]] = [free_it, replace_it, move_it, keep_it_for_patches_only]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("data", [text(1), near(text(1), 1), text(1) + near(text(1), 1)], ids=["same", "patch", "both"])
def test_what_was_looked_up_changes_before_commit(
    store: Store, change: Callable[[Store, Volume], None], data: bytes
) -> None:
    volume = store.create_volume(1, 1)
    put(store, volume, 0, text(1) + b"".join(map(half, range(600))))
    before = encode(store, volume, data)
    assert before.is_valid() and before.contents == data.count(near(text(1), 1))
    change(store, volume)
    is_same = change is keep_it_for_patches_only and data == text(1)  # its row may get another map entry
    assert before.is_valid() == is_same
    commit(store, before, volume, 1000, data)
    check_store(store, decode=True)
    check_nothing_twice(store)
    read = store.read(volume, 1000 * BLOCK_BYTES, len(data))
    assert read == data


def test_a_patch_is_made_and_is_no_reference(store: Store) -> None:
    volume = store.create_volume(1, 1)
    put(store, volume, 0, text(1))
    batch = encode(store, volume, near(text(1), 1))
    assert batch.contents == 1 and batch.featured == 0 and len(batch.records()) < BLOCK_BYTES // 8
    commit(store, batch, volume, 1, near(text(1), 1))
    assert encoding(store, volume, 1) == PATCHED


def test_the_later_of_two_extents_of_one_block_counts(store: Store) -> None:
    volume = store.create_volume(1, 1)
    volume.set_size(4 * BLOCK_BYTES)
    extents = [Extent(volume, 0, memoryview(text(1) + text(2))), Extent(volume, 1, memoryview(noise(3) + ZERO_BLOCK))]
    store._ingest.write(volume.domain, extents)
    assert contents(store, volume) == text(1) + noise(3) + 2 * ZERO_BLOCK
    assert volume.lookup(2) == ZERO_ENTRY and store.rows.live == 2
    check_store(store, decode=True)


BLOCKS = st.lists(
    st.one_of(
        st.builds(text, st.integers(0, 5)),
        st.builds(noise, st.integers(0, 5)),
        st.builds(half, st.integers(0, 5)),
        st.just(ZERO_BLOCK),
    ),
    min_size=1,
    max_size=40,
)


@given(BLOCKS, st.integers(0, 39))
def test_without_patches_each_content_takes_what_lz4_makes_of_it(blocks: list[bytes], cut: int) -> None:
    store = Store(MemoryHome(), LIMIT_BYTES, patching=False)
    volume = store.create_volume(1, 1)
    pieces = [b"".join(part) for part in (blocks[:cut], blocks[cut:]) if part]
    batch = store._ingest.encode(volume.domain, [memoryview(piece) for piece in pieces])
    wanted = list(dict.fromkeys(block for block in blocks if block != ZERO_BLOCK))
    sizes = [len(Codec().encode(block)) for block in wanted]
    sizes = [BLOCK_BYTES if size >= RAW_FROM_BYTES else size for size in sizes]
    assert batch.contents == len(wanted)
    assert [end - start for start, end in zip([0, *batch.ends()], batch.ends(), strict=False)] == sizes
    commit(store, batch, volume, 0, b"".join(blocks))
    assert contents(store, volume) == b"".join(blocks)


@pytest.mark.parametrize("data", [b"", b"x" * 100, bytes(BLOCK_BYTES * 129)])
def test_other_sizes_are_refused_and_the_batch_is_good_again(store: Store, data: bytes) -> None:
    volume = store.create_volume(1, 1)
    with pytest.raises(ValueError, match=r"batch|nothing"):
        encode(store, volume, data)
    commit(store, encode(store, volume, text(1)), volume, 0, text(1))
    assert contents(store, volume) == text(1)


def test_threads_that_write_the_same_at_once(store: Store) -> None:
    """Two write, punch and write again what is alike, and one compacts."""
    volumes = [store.create_volume(number, 1) for number in (1, 2)]
    ends = threading.Event()
    failures: list[BaseException] = []

    def work(volume: Volume) -> None:
        try:
            for turn in range(30):
                data = b"".join(near(text(seed), turn % 3) + half(seed + turn % 2) for seed in range(40))
                run(store.write_steps(volume, 0, data))
                run(store.discard_steps(volume, (turn % 7) * BLOCK_BYTES, 9 * BLOCK_BYTES))
        except BaseException as error:
            failures.append(error)

    def compact() -> None:
        while not ends.is_set():
            with store.lock:
                store.make_room()

    threads = [threading.Thread(target=work, args=(volume,)) for volume in volumes]
    compacting = threading.Thread(target=compact)
    for thread in (*threads, compacting):
        thread.start()
    for thread in threads:
        thread.join()
    ends.set()
    compacting.join()
    assert not failures
    assert contents(store, volumes[0]) == contents(store, volumes[1])
    check_nothing_twice(store)
    check_store(store, decode=True)
