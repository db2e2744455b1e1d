"""A small state that has everything which the format knows but blocks of other hosts: each kind of block and of record,
shared rows, clones, holes, two domains, and records in a piece of a tier."""

from __future__ import annotations

import random
from collections.abc import Mapping
from contextlib import nullcontext

from blockstore.store.moves.mover import Mover
from blockstore.store.state.geometry import BLOCK_BYTES
from blockstore.store.steps import run
from blockstore.store.store import Store
from blockstore.store.tiers import Tier
from blockstore.store.volume import Volume
from tests.store.material import densify, near, noise, put

WEB, DB, CLONE, OTHER = "web", "db", "clone", "other"
"""The volumes; the last one is alone in its domain."""

FILLER_BLOCKS = 256
"""Of noise: they fill a segment, so that what was written before them is in a full one and may go to the tier."""

SPARSE_BYTES = 16 << 20


def page(seed: int) -> bytes:
    """A block that LZ4 brings to about 1.5 KiB: worth a patch, and small in an archive."""
    chance = random.Random(f"page {seed}")
    words = [chance.randbytes(3).hex().encode() for _ in range(40)]
    return b" ".join(chance.choice(words) for _ in range(BLOCK_BYTES // 6))[:BLOCK_BYTES]


def fill(store: Store, tier: Tier, volumes: Mapping[str, Volume], filler: Volume) -> None:
    """Write all of it; `filler` is deleted again."""
    web, db, clone, other = (volumes[name] for name in (WEB, DB, CLONE, OTHER))
    first = [page(0), near(page(0), 0), page(1), page(0), bytes(BLOCK_BYTES), near(page(1), 1), noise(0)]
    put(store, web, 0, b"".join(first))
    densify(store)
    put(store, filler, 0, b"".join(map(noise, range(100, 100 + FILLER_BLOCKS))))
    run(store.delete_steps(filler))
    tier.check()
    mover = Mover(store.paging, store.pool, tier, nullcontext())
    assert mover.out()
    mover.sweep()
    second = [page(2), near(page(2), 2), bytes(BLOCK_BYTES), page(3), page(2), near(page(3), 3)]
    put(store, db, 0, b"".join(second))
    densify(store)
    third = [page(4), near(page(4), 4), noise(1), page(4), b"\1" * BLOCK_BYTES, page(5), bytes(BLOCK_BYTES)]
    put(store, db, 10 * BLOCK_BYTES, third[0])  # before what is like it: what is written at once is not compared
    put(store, db, 10 * BLOCK_BYTES, b"".join(third))
    put(store, web, 20 * BLOCK_BYTES, b"".join(third[:3]))
    run(store.clone_steps(db, 0, clone, 0, db.size_bytes))
    put(store, clone, BLOCK_BYTES, page(6))
    run(store.discard_steps(clone, 3 * BLOCK_BYTES, BLOCK_BYTES))
    put(store, other, 0, b"".join(second[:3]) + page(4) + b"an end within a block")
    run(store.resize_steps(web, SPARSE_BYTES))
