"""What a row must be like: one word and many are judged alike."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np

from blockstore.plane.tables.soundness import judge_words
from blockstore.store.checks.soundness import names_one
from blockstore.store.moves.mover import Mover
from blockstore.store.state.home import MemoryHome
from blockstore.store.store import Store
from blockstore.store.tiers.file import FileTier
from tests.store.columns import column
from tests.store.material import near, noise, put, text


def test_one_word_is_judged_as_many_are(tmp_path: Path) -> None:
    store, tier = Store(MemoryHome(), 8 << 20), FileTier(str(tmp_path / "tier"), bytes(16))
    tier.check()
    blocks = [noise(number) if number % 3 else near(text(number), number) for number in range(900)]
    put(store, store.create_volume(1, 1), 0, b"".join(blocks))
    assert Mover(store.paging, store.pool, tier, nullcontext()).out(1)
    words = column(store.rows.where)[column(store.rows.where) != 0][::7]
    flipped = words[:, None] ^ (np.uint64(1) << np.arange(64, dtype=np.uint64))
    judged = np.concatenate((words, flipped.ravel(), np.random.default_rng(1).integers(0, 1 << 63, 5000, np.uint64)))
    many = np.empty(len(judged), dtype=np.bool_)
    judge_words(store.pool.places(), judged, many.view(np.uint8))
    assert [names_one(word, store.pool) for word in judged.tolist()] == many.tolist()
    assert many[: len(words)].all() and 0.1 < many.mean() < 0.9
    tier.close()
    store.close()
