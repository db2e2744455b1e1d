"""Commit of batches from several threads, against a model; and that it changes nothing when it needs Python."""

from __future__ import annotations

import random
import threading

import pytest

from blockstore.plane.blocks.commit import COMMITTED, NEEDS_PYTHON, STALE
from blockstore.plane.blocks.encode import Batch
from blockstore.store.state.geometry import BLOCK_BYTES, ZERO_BLOCK
from blockstore.store.state.home import MemoryHome
from blockstore.store.steps import run
from blockstore.store.store import Store
from blockstore.store.volume import Volume
from tests.store.invariants import check_nothing_twice, check_store
from tests.store.live import remembered_files
from tests.store.material import contents, half, near, noise, put, text

__all__ = ["remembered_files"]

LIMIT_BYTES = 64 << 20
BLOCKS = 200
RESERVED_SEGMENTS = 2


def some_blocks(chance: random.Random) -> bytes:
    """Blocks that other threads write as well, patches against them, and others."""
    makers = (
        lambda: text(chance.randrange(40)),
        lambda: near(text(chance.randrange(40)), chance.randrange(4)),
        lambda: half(chance.randrange(40)),
        lambda: noise(chance.randrange(400)),
        lambda: ZERO_BLOCK,
    )
    return b"".join(chance.choice(makers)() for _ in range(chance.randint(1, 40)))


def test_threads_that_write_what_others_write_against_a_model() -> None:
    store = Store(MemoryHome(), LIMIT_BYTES)
    volumes = [store.create_volume(number, 1 + number % 2) for number in range(1, 5)]
    models = [bytearray(BLOCKS * BLOCK_BYTES) for _ in volumes]
    failures: list[BaseException] = []

    def work(volume: Volume, model: bytearray) -> None:
        chance = random.Random(volume.number)
        try:
            run(store.resize_steps(volume, len(model)))
            for _ in range(25):
                at = chance.randrange(BLOCKS - 40) * BLOCK_BYTES
                data = some_blocks(chance) if chance.random() < 0.8 else b""
                length = len(data) or chance.randrange(40) * BLOCK_BYTES
                run(store.write_steps(volume, at, data) if data else store.discard_steps(volume, at, length))
                model[at : at + length] = data or bytes(length)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=pair) for pair in zip(volumes, models, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert [contents(store, volume) for volume in volumes] == models
    check_nothing_twice(store)
    check_store(store, decode=True)
    for volume in volumes:
        run(store.delete_steps(volume))
    assert store.rows.live == 0 and not any(store.pool.segments.live_bytes)


def encoded(store: Store, volume: Volume, data: bytes) -> Batch:
    return store._ingest.encode(volume.domain, [memoryview(data)])


def books(store: Store) -> list[object]:
    pool = store.pool
    return [
        store.rows.live,
        store.rows.free.numbers(),
        store.content.used,
        (pool.log.head, pool.log.spare, pool.log.tail, pool.log.filled, pool.allocated_segments),
        pool.segments.live_bytes.tolist(),
        [volume.touched_blocks for volume in store.volumes.values()],
    ]


def commit(store: Store, batch: Batch, *targets: tuple[Volume, int, int]) -> int:
    places = [(volume.block_map, first, count) for volume, first, count in targets]
    return store._commit.commit(batch, places, RESERVED_SEGMENTS)


def test_without_room_nothing_has_changed_and_python_makes_it() -> None:
    store = Store(MemoryHome(), LIMIT_BYTES)
    volume = store.create_volume(1, 1)
    batch, before = encoded(store, volume, text(1) + noise(1)), books(store)
    assert commit(store, batch, (volume, 0, 2)) == NEEDS_PYTHON, "the map is too short"
    volume.cover(2)
    assert commit(store, batch, (volume, 0, 2)) == NEEDS_PYTHON, "there is no segment to append to"
    assert books(store) == before
    store.pool.make_room_for(batch.record_bytes, RESERVED_SEGMENTS)
    assert commit(store, batch, (volume, 0, 2)) == COMMITTED
    volume.set_size(2 * BLOCK_BYTES)
    assert contents(store, volume) == text(1) + noise(1)
    check_store(store, decode=True)


def test_a_batch_that_is_stale_changes_nothing() -> None:
    store = Store(MemoryHome(), LIMIT_BYTES)
    volume = store.create_volume(1, 1)
    put(store, volume, 0, text(1) + noise(1))
    batch = encoded(store, volume, text(1))
    put(store, volume, 0, noise(2))  # frees the row
    before = books(store)
    assert commit(store, batch, (volume, 1, 1)) == STALE and books(store) == before
    batch.encode_again()
    assert commit(store, batch, (volume, 1, 1)) == COMMITTED
    assert contents(store, volume) == noise(2) + text(1)
    check_store(store, decode=True)


@pytest.mark.parametrize("counts", [(), (1,), (1, 2), (3,)])
def test_other_counts_of_blocks_are_refused(counts: tuple[int, ...]) -> None:
    store = Store(MemoryHome(), LIMIT_BYTES)
    volume = store.create_volume(1, 1)
    volume.set_size(10 * BLOCK_BYTES)
    batch, before = encoded(store, volume, text(1) + text(2)), books(store)
    with pytest.raises(ValueError, match="blocks"):
        commit(store, batch, *((volume, 0, count) for count in counts))
    assert books(store) == before
