"""Digests that collide: they only find candidates, so blocks must never be mixed up, whatever the digest says."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import xxhash

from blockstore.store.codec import Buffer
from blockstore.store.geometry import BLOCK_BYTES, ZERO_ENTRY
from blockstore.store.home import MemoryHome
from blockstore.store.store import Store, run
from tests.store.invariants import check_nothing_twice, check_store
from tests.store.material import contents, half, near, noise, put, text

Digest = Callable[[Buffer, int], int]


def constant(block: Buffer, seed: int) -> int:
    """The same for all."""
    return 12345


def zero(block: Buffer, seed: int) -> int:
    """The same for all, and what an unused row has."""
    return 0


def one_of_four(block: Buffer, seed: int) -> int:
    """Many share one, also across domains, and all are at the end of the index."""
    return 2**64 - 1 - xxhash.xxh3_64_intdigest(block) % 4


@pytest.fixture(params=(constant, zero, one_of_four))
def store(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Store:
    """A store whose digests collide."""
    digest: Digest = request.param
    for module in ("ingest", "decode", "volume"):
        monkeypatch.setattr(f"blockstore.store.{module}.digest", digest)
    return Store(MemoryHome(), 64 << 20)


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
