"""Block contents for the store's tests: each is a function of small numbers, so that failures print short."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import lru_cache

from blockstore.store.remote.fetch import read
from blockstore.store.state.geometry import BLOCK_BYTES
from blockstore.store.steps import Blocks, blocks_of, run
from blockstore.store.store import Store
from blockstore.store.tiers import Tier, TierAway
from blockstore.store.volume import Volume
from tests.store.live import files_of
from tests.store.records import ReadPiece
from tests.store.state_files import State


@lru_cache(maxsize=4096)
def noise(seed: int) -> bytes:
    """A block that nothing compresses."""
    return random.Random(f"noise {seed}").randbytes(BLOCK_BYTES)


@lru_cache(maxsize=4096)
def text(seed: int) -> bytes:
    """A block of words from a small vocabulary, most rows of it different: LZ4 makes two thirds of it."""
    chance = random.Random(f"text {seed}")
    vocabulary = random.Random(seed & 3)
    words = [vocabulary.randbytes(vocabulary.randint(3, 9)).hex().encode() for _ in range(200)]
    return b" ".join(chance.choice(words) for _ in range(BLOCK_BYTES // 6))[:BLOCK_BYTES]


@lru_cache(maxsize=4096)
def half(seed: int) -> bytes:
    """A block that compresses to about half: what full segments are made of."""
    return noise(seed)[: BLOCK_BYTES // 2] + bytes([seed & 0xFF]) * (BLOCK_BYTES // 2)


def near(block: bytes, seed: int, changes: int = 3) -> bytes:
    """The block with a few single bytes changed: what patches are for."""
    chance, changed = random.Random(f"near {seed}"), bytearray(block)
    for _ in range(changes):
        changed[chance.randrange(BLOCK_BYTES)] ^= chance.randrange(1, 256)
    return bytes(changed)


@lru_cache(maxsize=4096)
def kin(seed: int, other: int) -> bytes:
    """A block of which a third is in text(seed) and the rest its own: with luck one feature tells, for which LZ4 is not
    tried."""
    return text(seed)[:1000] + text(10_000 + other)[:1000] + bytes(BLOCK_BYTES - 2000)


def contents(store: Store, volume: Volume, tier: Tier | None = None) -> bytes:
    """All bytes of a volume as the store reads them, some of which may be in a tier: they are what its files hold."""
    parts = []
    for offset in range(0, volume.size_bytes, 256 * BLOCK_BYTES):
        length = min(256 * BLOCK_BYTES, volume.size_bytes - offset)
        if tier is not None:
            fetch_from(store, tier)(blocks_of(volume, offset, length))
        parts.append(store.read(volume, offset, length))
    found = b"".join(parts)
    state = State(files_of(store), reader_of(tier) if tier is not None else None)
    assert state.contents(volume.number) == found, "the store reads other bytes than its files hold"
    return found


def reader_of(tier: Tier) -> ReadPiece:
    """For the reader of state files: asks until the tier has answered."""

    def read_piece(piece: int, offset: int, length: int) -> bytes:
        while True:
            with suppress(TierAway):
                return tier.read(piece, offset, length)

    return read_piece


def fetch_from(store: Store, tier: Tier) -> Callable[[Blocks], None]:
    """For `run`: as who waits does it, until the tier has answered."""

    def fetch(blocks: Blocks) -> None:
        wants = store.missing(blocks)
        while True:
            with suppress(TierAway):
                store.keep(read(tier, {}, wants))
                return

    return fetch


def densify(store: Store) -> None:
    """Encode everything anew that gets smaller by it, however young."""
    store.densify.begin_all()
    while store.densify.step():
        pass


def steps_to_the_end(step: Callable[[], bool | None]) -> int:
    """Take steps until there is nothing more to do; how many."""
    count = 0
    while step():
        count += 1
        assert count < 10_000, "it does not end"
    return count


def encodings(store: Store) -> dict[int, int]:
    """How many live rows there are of each encoding."""
    state = State(files_of(store))
    return dict(Counter(state.encoding[state.where != 0].tolist()))


def put(store: Store, volume: Volume, offset: int, data: bytes, tier: Tier | None = None) -> None:
    """Write all of it now."""
    run(store.write_steps(volume, offset, data), fetch_from(store, tier) if tier is not None else None)
