"""Which records are kept twice: counted as a plain loop over blocks counts them, and without changing what is there."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np
import pytest
from benchlab.vms import twice_look
from benchlab.vms.twice_look import Pages, Twice, count
from hypothesis import given
from hypothesis import strategies as st

from blockstore.store.state.geometry import BLOCK_BYTES, COMPRESSED, FIRST_ROW, ID_MASK, PAGED, PATCHED, ZERO_ENTRY
from blockstore.store.state.home import DirectoryHome
from blockstore.store.state.location import pack, size_of
from blockstore.store.store import Store
from tests.daemon.lab import Lab, cold, drop, mixed_blocks, put, until
from tests.store import material
from tests.store.material import near, noise, text

ROWS = 12
BLOCK = st.tuples(st.integers(0, ROWS - 1), st.booleans(), st.booleans())


def volume_of(blocks: list[tuple[int, bool, bool]]) -> Pages:
    """Of a volume with these rows, resident and dirty pages; row 0 is a hole, 1 zeros."""
    entries = np.array([row if row != 1 else ZERO_ENTRY for row, _, _ in blocks], dtype=np.uint64)
    is_resident = np.array([here for _, here, _ in blocks], dtype=bool)
    return Pages(entries, is_resident, is_resident & np.array([dirty for _, _, dirty in blocks], dtype=bool))


def model(where: list[int], reference: list[int], volumes: list[list[tuple[int, bool, bool]]]) -> Twice:
    """The same, block by block."""
    blocks = [block for volume in volumes for block in volume]
    here = [block for block in blocks if block[1]]
    states: dict[int, list[str]] = {}
    for row, is_resident, is_dirty in blocks:
        if row >= FIRST_ROW:
            states.setdefault(row, []).append("away" if not is_resident else "dirty" if is_dirty else "clean")
    sizes = {row: 0 if where[row] & PAGED else where[row] >> 3 & 0x1FFF for row in states}
    given_up = {row for row, seen in states.items() if set(seen) == {"clean"}}
    patches = {row for row in range(ROWS) if where[row] & 3 == 3} - given_up

    def total(rows: set[int]) -> int:
        return sum(sizes[row] for row in rows)

    clean = [block for block in here if not block[2]]
    return Twice(
        resident=BLOCK_BYTES * len(here),
        clean=BLOCK_BYTES * len(clean),
        clean_with_record=BLOCK_BYTES * sum(row >= FIRST_ROW for row, _, _ in clean),
        records=total(set(states)),
        any_resident=total({row for row, seen in states.items() if set(seen) != {"away"}}),
        all_resident=total({row for row, seen in states.items() if "away" not in seen}),
        any_clean=total({row for row, seen in states.items() if "clean" in seen}),
        all_clean=total(given_up),
        all_dirty=total({row for row, seen in states.items() if set(seen) == {"dirty"}}),
        unneeded=total(given_up - {reference[row] for row in patches}),
    )


@given(
    st.lists(st.tuples(st.integers(1, 4096), st.sampled_from((COMPRESSED, PATCHED)), st.booleans()), min_size=ROWS),
    st.lists(st.integers(0, 2**32 - 1) | st.integers(0, ROWS - 1), min_size=ROWS, max_size=ROWS),
    st.lists(st.lists(BLOCK, max_size=20), max_size=3),
)
def test_each_record_is_counted_once(
    words: list[tuple[int, int, bool]], reference: list[int], volumes: list[list[tuple[int, bool, bool]]]
) -> None:
    where = [pack(row * 5000, size, kind) | (PAGED if paged else 0) for row, (size, kind, paged) in enumerate(words)]
    where = where[:ROWS]
    found = count(np.array(where, np.uint64), np.array(reference, np.uint32), [volume_of(volume) for volume in volumes])
    assert found == model(where, reference, volumes)


def test_tables_are_those_of_the_store(tmp_path: Path) -> None:
    """All is clean and resident, then half of it: a record that patches of the other half need cannot be given up."""
    store = Store(DirectoryHome(tmp_path), 32 << 20)
    volume, other = store.create_volume(1, 1), store.create_volume(2, 1)
    material.put(store, volume, 0, b"".join(map(text, range(40))) + noise(1))
    material.put(store, other, 0, b"".join(near(text(seed), seed, 60) for seed in range(40)) + noise(1))
    here = np.ones(41, dtype=bool)
    volumes = [Pages(twice_look.entries_of(tmp_path, number, 41), here, ~here) for number in (1, 2)]
    assert volumes[0].entries.tolist() == volume.entries(0, 41).tolist()
    found = count(*twice_look.tables_of(tmp_path), volumes)
    assert found.all_clean == found.unneeded == found.records == store.record_bytes
    kept = count(*twice_look.tables_of(tmp_path), [volumes[0], volumes[1]._replace(is_resident=~here)])
    shared_bytes = size_of(store.rows.where.items[volume.lookup(40) & ID_MASK])
    assert kept.any_clean - kept.all_clean == shared_bytes and kept.unneeded < kept.all_clean
    assert not twice_look.entries_of(tmp_path, 1, 1 << 12)[41:].any(), "holes beyond the end"
    store.close()


@pytest.mark.mount
def test_looking_changes_nothing(lab: Lab) -> None:
    mounted, content = lab.mount(), b"".join(mixed_blocks(3))
    path = mounted.path / "vm1"
    put(path, content)
    blocks = len(content) // BLOCK_BYTES
    seen = twice_look.look(mounted.path, mounted.state)
    assert seen.resident == seen.clean == blocks * BLOCK_BYTES
    assert seen.all_clean == seen.records == mounted.total()["stored"] - mounted.total()["stored_references"]
    drop(path)
    for _ in range(2):
        seen = twice_look.look(mounted.path, mounted.state)
        assert (seen.resident, seen.any_resident, seen.all_dirty) == (0, 0, 0) and seen.records
    assert cold(path) == content


@pytest.mark.mount
def test_dirty_pages_are_found_one_by_one(lab: Lab) -> None:
    mounted = lab.mount()
    path, pages = mounted.path / "vm1", [0, 7, 8, 50, 99]
    put(path, b"".join(map(noise, range(100))))
    descriptor = os.open(path, os.O_RDWR)
    try:
        with mmap.mmap(descriptor, 100 * BLOCK_BYTES) as mapping:

            def stay_dirty() -> bool:
                """The kernel may write some back before they are looked at."""
                for page in pages:
                    mapping[page * BLOCK_BYTES] ^= 1
                twice_look.look(mounted.path, mounted.state)
                here, dirty = twice_look.pages_of(descriptor, 100)
                assert here.all()
                return np.flatnonzero(dirty).tolist() == pages

            until(stay_dirty, "all that were written are dirty, and no others, although they were looked at")
            mapping.flush()
    finally:
        os.close(descriptor)
    assert twice_look.look(mounted.path, mounted.state).all_dirty == 0
