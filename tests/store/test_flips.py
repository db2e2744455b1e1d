"""Flipped bits in segments and tables: never wrong data, always reported, and mended where one bit is to blame."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from blockstore.errors import CorruptBlock, StateError
from blockstore.store.checks.verify import Verification, steps
from blockstore.store.state.geometry import BLOCK_BYTES, ENCODING_MASK, PATCH_BITS
from blockstore.store.state.home import CopiedHome, DirectoryHome, Home
from blockstore.store.state.location import offset_of, size_of
from blockstore.store.steps import run
from blockstore.store.store import Store
from tests.store.columns import column
from tests.store.invariants import check_store
from tests.store.material import densify, near, noise, put, text

pytestmark = pytest.mark.long

LIMIT_BYTES = 16 << 20
FLIPS_WHILE_RUNNING = {False: 10_000, True: 3_000}
"""As written, and dense, where each takes three times as long to look at."""

FLIPS_AT_REST = 400
LENGTHS = pytest.mark.parametrize(
    "part", (pytest.param(1, id="all", marks=pytest.mark.nightly), pytest.param(12, id="a twelfth"))
)
"""How many of these flips: one of so many."""
BLOCKS = {
    1: [bytes(BLOCK_BYTES), noise(1), *(text(seed) for seed in range(8)), noise(1), text(0)],
    2: [noise(1), *(near(text(seed), seed, 3 + 60 * (seed % 2)) for seed in range(8)), bytes(BLOCK_BYTES), text(3)],
    3: [noise(1), text(0), near(text(0), 0)],
}
"""By volume; 1 and 2 share a domain. Each has a hole behind its blocks, and one block more."""


DENSIFIED = pytest.mark.parametrize("dense", (False, True), ids=("as written", "dense"))


def fill(path: Path, *, dense: bool = False) -> Store:
    """With `dense`, the first two volumes were cold for a time before the third came."""
    store = Store(DirectoryHome(path), LIMIT_BYTES)
    for number, blocks in BLOCKS.items():
        if dense and number == 3:
            densify(store)
        volume = store.create_volume(number, 1 + number // 3)
        put(store, volume, 0, b"".join(blocks))
        put(store, volume, (len(blocks) + 3) * BLOCK_BYTES, text(number))
    encodings = column(store.rows.where)[column(store.rows.where) != 0] & np.uint64(ENCODING_MASK)
    assert set(encodings.tolist()) >= ({1, 2, 4, 7} if dense else {1, 2, 3}), "the material has every encoding"
    return store


def wanted(number: int) -> list[bytes]:
    return [*BLOCKS[number], *([bytes(BLOCK_BYTES)] * 3), text(number)]


def refused(store: Store) -> int:
    """How many blocks cannot be read; asserts that all others are right."""
    count = 0
    for number, blocks in ((number, wanted(number)) for number in BLOCKS):
        for place, block in enumerate(blocks):
            try:
                assert store.read(store.volumes[number], place * BLOCK_BYTES, BLOCK_BYTES) == block
                assert store.decoder.read_block(store.volumes[number], place) == block
            except CorruptBlock:
                count += 1
    return count


def verified(store: Store, *, repair: bool = False) -> Verification:
    result = Verification()
    run(steps(store, result, repair=repair))
    return result


def words(store: Store) -> Iterator[tuple[str, memoryview, int, int]]:
    """(what, table, place, bits) of every word of the tables that anything depends on."""
    rows = store.rows
    live = np.flatnonzero(column(rows.where)).tolist()
    for table, bits in ((rows.where, 64), (rows.digest, 64), (rows.domain, 16), (rows.count, 32)):
        yield from ((table.name, table.items, row, bits) for row in live)
    yield from ((rows.dependents.name, rows.dependents.items, row, 16) for row in live)
    for row in live:
        if rows.where.items[row] & PATCH_BITS == PATCH_BITS:
            yield rows.reference.name, rows.reference.items, row, 32
    for volume in store.volumes.values():
        yield from (("map", volume.map, block, 64) for block in range(volume.blocks))


@LENGTHS
@DENSIFIED
def test_while_running(state_path: Path, dense: bool, part: int) -> None:
    """One bit at a time, of any word of the tables and of any record."""
    store, chance = fill(state_path, dense=dense), random.Random(1)
    tables = list(words(store))
    records = [word for word in column(store.rows.where).tolist() if word]
    reported, flips = 0, FLIPS_WHILE_RUNNING[dense] // part
    for number in range(flips):
        if chance.random() < 0.7:
            what, table, place, bits = chance.choice(tables)
        else:
            word = chance.choice(records)
            what, table, bits = "record", store.pool.view, 8
            place = offset_of(word) + chance.randrange(size_of(word))
        was = table[place]
        table[place] = was ^ 1 << chance.randrange(bits)
        lost = refused(store)
        if number % 5 == 0 or lost:
            found = verified(store).found
            assert found if what != "record" or lost else True, f"a flip in {what} at {place} is not reported"
            reported += bool(found)
        table[place] = was
    assert reported > flips // 4
    assert not verified(store).found and not refused(store)
    store.close()


@DENSIFIED
@pytest.mark.parametrize("seed", range(4))
def test_repair_while_running(state_path: Path, seed: int, dense: bool) -> None:
    """What one flip did to a map, a row or a record is undone, and the store is sound again."""
    store, chance = fill(state_path, dense=dense), random.Random(seed)
    tables = list(words(store))
    records = [word for word in column(store.rows.where).tolist() if word]
    for _ in range(60):
        if chance.random() < 0.8:
            _, table, place, bits = chance.choice(tables)
        else:
            word = chance.choice(records)
            table, bits = store.pool.view, 8
            place = offset_of(word) + chance.randrange(size_of(word))
        table[place] ^= 1 << chance.randrange(bits)
        verified(store, repair=True)
        assert not verified(store).found and not refused(store)
    check_store(store, decode=True)
    store.close()


@LENGTHS
@DENSIFIED
def test_at_rest(state_path: Path, dense: bool, part: int) -> None:
    """In any file of a state that nobody serves: it is refused, or what can be read is right; and verify tells."""
    fill(state_path, dense=dense).close()
    copy, chance = state_path.with_name("copy"), random.Random(2)
    files = [path for path in sorted(state_path.iterdir()) if path.stat().st_size and path.name != "content-index"]
    for _ in range(FLIPS_AT_REST // part):
        shutil.rmtree(copy, ignore_errors=True)
        run_cp(state_path, copy)
        path = copy / chance.choice(files).name
        data = [(place, byte) for place, byte in sparse_bytes(path) if byte or chance.random() < 0.02]
        place, byte = chance.choice(data)
        with path.open("r+b") as file:
            file.seek(place)
            file.write(bytes([byte ^ 1 << chance.randrange(8)]))
        told = is_reported(copy)
        store = accepted(DirectoryHome(copy))
        if store is None:
            assert told, f"a flip at {place} of {path.name} is refused, and verify says nothing"
            continue
        assert not refused(store) or told, f"a flip at {place} of {path.name} is not reported"
        store.close()
    shutil.rmtree(copy, ignore_errors=True)


def is_reported(path: Path) -> bool:
    """Does a look at this state find something, or refuse it?"""
    store = accepted(CopiedHome(DirectoryHome(path)), look=True)
    if store is None:
        return True
    found = verified(store).found
    store.close()
    return bool(found)


def accepted(home: Home, *, look: bool = False) -> Store | None:
    """The store in this home; None if it is refused."""
    try:
        return Store(home, LIMIT_BYTES, look=look)
    except StateError:
        home.close()
        return None


def run_cp(source: Path, target: Path) -> None:
    target.mkdir()
    for path in source.iterdir():
        fd = (target / path.name).open("wb")
        with fd, path.open("rb") as data:
            fd.truncate(path.stat().st_size)
            for start, piece in extents(data.fileno()):
                fd.seek(start)
                fd.write(piece)


def extents(fd: int) -> Iterator[tuple[int, bytes]]:
    position, end = 0, os.fstat(fd).st_size
    while position < end:
        try:
            start = os.lseek(fd, position, os.SEEK_DATA)
        except OSError:
            return
        position = os.lseek(fd, start, os.SEEK_HOLE)
        yield start, os.pread(fd, position - start, start)


def sparse_bytes(path: Path) -> Iterator[tuple[int, int]]:
    with path.open("rb") as file:
        for start, piece in extents(file.fileno()):
            yield from enumerate(piece, start)


@pytest.mark.parametrize("share", (0.0, 0.3, 0.9))
def test_files_that_are_cut_off(state_path: Path, share: float) -> None:
    """Within what was written to them, for they end in a long hole: verify tells, and what can be read is right."""
    fill(state_path).close()
    copy = state_path.with_name("copy")
    for path in sorted(state_path.iterdir()):
        end = max((place + 1 for place, byte in sparse_bytes(path) if byte), default=0)
        if not end or path.name in ("content-index", "similarity-rows", "similarity-tags"):
            continue  # nothing is lost, or it is rebuilt
        shutil.rmtree(copy, ignore_errors=True)
        run_cp(state_path, copy)
        os.truncate(copy / path.name, int(end * share))
        assert is_reported(copy), f"a cut {path.name} is not reported"
        store = accepted(DirectoryHome(copy))
        if store is not None and store.volumes.keys() == BLOCKS.keys():
            refused(store)  # which asserts that all else is right
        if store is not None:
            store.close()
    shutil.rmtree(copy, ignore_errors=True)
