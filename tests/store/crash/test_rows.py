"""A process killed while columns grow, or a size is not stored yet; and a full pool that is opened after a kill."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from blockstore.errors import OutOfRoom
from blockstore.plane.blocks import commit
from blockstore.store.state.geometry import BLOCK_BYTES
from blockstore.store.state.rows import Rows
from blockstore.store.volume import Volume
from tests.store.crash.lab import check_old_or_new, contents, open_store, put, run
from tests.store.invariants import check_store
from tests.store.material import noise, text

pytestmark = pytest.mark.long


@pytest.mark.parametrize("column", ("where", "digest", "reference", "domain", "count"))
def test_killed_while_the_rows_grow(state_path: Path, column: str) -> None:
    """Growing the columns is many lines, but needs more rows than the short life has."""
    data = b"".join((1 + place).to_bytes(8) * 512 for place in range(6000))
    first = data[: 4000 * BLOCK_BYTES]
    store = open_store(state_path)
    put(store, store.create_volume(1, 1), 0, first)
    store.close()
    pid = os.fork()
    if not pid:
        try:
            store = open_store(state_path)
            array = getattr(store.rows, column)
            grow = array.grow

            def last_act(capacity: int) -> None:
                grow(capacity)
                os.kill(os.getpid(), signal.SIGKILL)

            array.grow = last_act
            put(store, store.volumes[1], 0, data)
        finally:
            os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1]), "the rows did not grow"
    store = open_store(state_path)
    check_store(store, decode=True)
    check_old_or_new(store, {1: first}, {1: data})
    put(store, store.volumes[1], 0, data)
    assert contents(store, store.volumes[1]) == data
    check_store(store, decode=True)
    assert isinstance(store.rows, Rows)
    store.close()


def die_when_published(volume: Volume, block: int) -> None:
    """Has the process killed before its next store after this block has another map entry: the size comes later,
    stored by compiled code, or by Python when it had to make room."""
    before = volume.lookup(block)

    def die_if_it_has(size_bytes: int = 0) -> None:
        if volume.lookup(block) != before:
            os.kill(os.getpid(), signal.SIGKILL)

    commit.call_at_points(die_if_it_has)
    volume.set_size = die_if_it_has  # type: ignore[method-assign]


def test_killed_before_the_size_is_stored(state_path: Path) -> None:
    """What a write or a clone put into the map beyond the old size is not part of the volume; it must not come back."""
    store = open_store(state_path)
    volume = store.create_volume(1, 1)
    put(store, volume, 0, noise(1))
    store.close()
    pid = os.fork()
    if not pid:
        try:
            store = open_store(state_path)

            die_when_published(store.volumes[1], 2)
            put(store, store.volumes[1], BLOCK_BYTES, noise(2) + text(1))
        finally:
            os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    store = open_store(state_path)
    volume = store.volumes[1]
    check_store(store, decode=True)
    run(store, store.resize_steps(volume, 3 * BLOCK_BYTES))
    other = store.create_volume(2, 1)
    put(store, other, 0, noise(3) + noise(4))  # takes the rows that the killed write left
    assert contents(store, volume) == noise(1) + bytes(2 * BLOCK_BYTES)
    run(store, store.discard_steps(volume, 0, volume.size_bytes))
    assert contents(store, other) == noise(3) + noise(4)
    check_store(store, decode=True)
    store.close()


@pytest.mark.parametrize("grow", ("resize", "write", "clone"))
def test_killed_before_the_size_is_stored_in_the_last_block(state_path: Path, grow: str) -> None:
    """The last block is written whole while the old size ends within it: what is behind the size must not come back."""
    store = open_store(state_path)
    put(store, store.create_volume(1, 1), 0, noise(1)[:1000])
    store.close()
    pid = os.fork()
    if not pid:
        try:
            store = open_store(state_path)

            die_when_published(store.volumes[1], 0)
            put(store, store.volumes[1], 0, noise(2))
        finally:
            os._exit(0)
    assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    store = open_store(state_path)
    volume = store.volumes[1]
    size_bytes = volume.size_bytes
    found = contents(store, volume)
    assert found in (noise(1)[:1000], noise(2)[:1000], noise(2), noise(1)[:1000] + bytes(BLOCK_BYTES - 1000))
    if grow == "clone":
        source, volume = volume, store.create_volume(2, 1)
        run(store, store.clone_steps(source, 0, volume, 0, size_bytes))
    if grow == "write":
        put(store, volume, 2 * BLOCK_BYTES - 1, b"\0")
    else:
        run(store, store.resize_steps(volume, 2 * BLOCK_BYTES))
    assert contents(store, volume) == found + bytes(2 * BLOCK_BYTES - size_bytes)
    check_store(store, decode=True)
    store.close()


def test_a_full_pool_can_be_opened_after_a_kill(state_path: Path) -> None:
    """Whatever a start has to repair, it must not need room: a full pool is when processes get killed."""
    store = open_store(state_path)
    volume, filler, block = store.create_volume(1, 1), store.create_volume(2, 1), 0
    put(store, volume, 0, noise(1))
    with pytest.raises(OutOfRoom):
        while True:
            put(store, filler, block * BLOCK_BYTES, noise(100 + block))
            block += 1
    volume.set_size(1000)  # as a write that was killed before it stored the new size leaves it
    store.close()
    store = open_store(state_path)
    volume = store.volumes[1]
    check_store(store, decode=True)
    assert contents(store, volume) == noise(1)[:1000]
    assert contents(store, store.volumes[2]) == b"".join(map(noise, range(100, 100 + block)))
    run(store, store.delete_steps(store.volumes[2]))
    run(store, store.resize_steps(volume, 2 * BLOCK_BYTES))
    assert contents(store, volume) == noise(1)[:1000] + bytes(2 * BLOCK_BYTES - 1000)
    store.close()
