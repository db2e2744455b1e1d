"""Digests that collide: they only find candidates, so blocks must never be mixed up, whatever the digest says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from blockstore.plane.codec.codec import collide, digest
from blockstore.store.state.geometry import BLOCK_BYTES, ZERO_ENTRY
from blockstore.store.state.home import MemoryHome
from blockstore.store.steps import run
from blockstore.store.store import Store
from tests.store.invariants import check_nothing_twice, check_store
from tests.store.material import contents, half, near, noise, put, text

ALL = 2**64 - 1


@pytest.fixture(
    params=(
        pytest.param((0, 12345), id="constant"),
        pytest.param((0, 0), id="zero"),  # what an unused row has
        pytest.param((3, ALL ^ 3), id="one_of_four"),  # also across domains, and all at the end of the index
    )
)
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """A store whose digests collide: of each only the bits of a mask are left, and others are always the same."""
    mask, flip = request.param
    monkeypatch.setattr("blockstore.store.volume.digest", lambda data, seed: digest(data, seed) & mask ^ flip)
    collide(mask, flip)
    yield Store(MemoryHome(), 64 << 20)
    collide(ALL, 0)


BLOCKS = [
    noise(1),
    text(1),
    bytes(BLOCK_BYTES),
    half(1),
    noise(2),
    near(text(1), 1),
    text(2),
    near(noise(1), 1),
    bytes(BLOCK_BYTES - 1) + b"\1",
    text(1),
    near(text(1), 2),
    noise(1),
]


def test_blocks_of_one_slice(store: Store) -> None:
    volume = store.create_volume(1, 1)
    put(store, volume, 0, b"".join(BLOCKS) * 4)
    assert contents(store, volume) == b"".join(BLOCKS) * 4
    assert volume.lookup(2) == ZERO_ENTRY, "the zero block must still be known"
    check_store(store)
    check_nothing_twice(store)


def test_blocks_of_many_writes(store: Store) -> None:
    volume = store.create_volume(1, 1)
    for turn in range(3):
        for place, block in enumerate(BLOCKS):
            put(store, volume, (place * 3 + turn) * BLOCK_BYTES, block)
    assert contents(store, volume) == b"".join(block * 3 for block in BLOCKS)
    check_store(store)
    check_nothing_twice(store)


def test_blocks_of_two_domains(store: Store) -> None:
    first, second = store.create_volume(1, 1), store.create_volume(2, 2)
    for place, block in enumerate(BLOCKS):
        put(store, first, place * BLOCK_BYTES, block)
        put(store, second, place * BLOCK_BYTES, BLOCKS[-1 - place])
    assert contents(store, first) == b"".join(BLOCKS)
    assert contents(store, second) == b"".join(reversed(BLOCKS))
    check_store(store)
    run(store.delete_steps(first))
    check_store(store)
    assert contents(store, second) == b"".join(reversed(BLOCKS))


def test_rows_are_reused_under_the_same_digest(store: Store) -> None:
    volume = store.create_volume(1, 1)
    for turn in range(40):
        data = noise(turn) + text(turn) + near(text(turn - 1), turn) + half(turn) + noise(turn)
        put(store, volume, 0, data)
        assert contents(store, volume) == data
        check_store(store)
    run(store.discard_steps(volume, 0, volume.size_bytes))
    assert store.rows.live == 0
