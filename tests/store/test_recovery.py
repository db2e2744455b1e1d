"""A start on a damaged state: refused as it was left, or mended when that is wanted."""

from __future__ import annotations

from pathlib import Path

import pytest

from blockstore.errors import CorruptBlock, StateError
from blockstore.store.state.geometry import BLOCK_BYTES, ID_MASK
from blockstore.store.state.home import DirectoryHome
from blockstore.store.store import Store
from tests.store.columns import column
from tests.store.invariants import check_store
from tests.store.material import near, noise, put, text

LIMIT_BYTES = 16 << 20
BLOCKS = [noise(1), *(text(seed) for seed in range(6)), *(near(text(seed), seed) for seed in range(6)), bytes(4096)]


def damaged_state(path: Path) -> None:
    """Volume 1 has a flipped entry and one of garbage, volume 2 shares a row whose digest was flipped."""
    store = Store(DirectoryHome(path), LIMIT_BYTES)
    for number in (1, 2):
        put(store, store.create_volume(number, 1), 0, b"".join(BLOCKS))
    shared = store.volumes[1].map[3] & ID_MASK
    store.rows.digest.items[shared] ^= 1 << 50
    store.volumes[1].map[1] ^= 1 << 40
    store.volumes[1].map[2] = 0x1234_5678_9ABC_DEF0
    column(store.rows.count)[:] = 7  # what a killed process left
    store.close()


def files_of(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir() if file.name != "pool"}


def test_damage_is_refused_and_nothing_is_changed(state_path: Path) -> None:
    damaged_state(state_path)
    before = files_of(state_path)
    home = DirectoryHome(state_path)
    with pytest.raises(StateError, match=r"(3 blocks of volume-1|1 blocks of volume-2) cannot be found any more"):
        Store(home, LIMIT_BYTES)
    home.close()
    assert files_of(state_path) == before


def test_damage_is_mended_or_lost(state_path: Path) -> None:
    damaged_state(state_path)
    store = Store(DirectoryHome(state_path), LIMIT_BYTES, mend=True)
    assert store.lost_blocks == 1
    for number, volume in store.volumes.items():
        for block, content in enumerate(BLOCKS):
            if (number, block) == (1, 2):
                with pytest.raises(CorruptBlock):
                    store.read(volume, block * BLOCK_BYTES, BLOCK_BYTES)
            else:
                assert store.read(volume, block * BLOCK_BYTES, BLOCK_BYTES) == content
    check_store(store, decode=True)
    store.close()
    Store(DirectoryHome(state_path), LIMIT_BYTES).close()
