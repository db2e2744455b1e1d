"""Batches of re-encoding: what is picked and left out, room, damage, and that other threads get on."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from blockstore.errors import CorruptBlock
from blockstore.plane.moves.cold_scan import ColdScan
from blockstore.plane.moves.cold_segments import ColdSegments
from blockstore.plane.moves.reencode import Reencoder
from blockstore.store.state.geometry import (
    BLOCK_BYTES,
    COMPRESSED,
    DENSE,
    DENSE_PATCHED,
    ENCODING_MASK,
    FIRST_ROW,
    ID_MASK,
    PATCHED,
    RAW,
)
from blockstore.store.state.home import MemoryHome
from blockstore.store.store import Store
from tests.store.invariants import check_store
from tests.store.live import remembered_files
from tests.store.material import contents, encodings, kin, near, noise, put, text

__all__ = ["remembered_files"]

LIMIT_BYTES = 64 << 20
RESERVED_SEGMENTS = 2
TRIED = 1 << RAW | 1 << COMPRESSED | 1 << PATCHED
BLOCKS = 40


def store_of(data: bytes) -> Store:
    store = Store(MemoryHome(), LIMIT_BYTES)
    put(store, store.create_volume(1, 1), 0, data)
    return store


def some_blocks() -> bytes:
    """Blocks of all kinds, related and not."""
    kinds = (text, lambda seed: near(text(seed), seed, 60), lambda seed: kin(seed, seed), noise)
    return b"".join(kind(seed) for kind in kinds for seed in range(BLOCKS // len(kinds)))


def reencoder_of(store: Store, most_blocks: int = 8) -> Reencoder:
    return Reencoder(
        store._commit,
        store.similarity,
        store.pool.epochs,
        most_blocks,
        gain_bytes=32,
        patch_gain_bytes=32,
        enough_share=0.5,
        described_from_bytes=400,
        most_dependents=60_000,
    )


def scan_of(store: Store, tried: int = TRIED) -> ColdScan:
    """Of all rows, as far as one step goes."""
    table, cold = store.pool.segments, ColdSegments()
    cold.look(table.generation, bytes(table.count), bytes(table.count), -1, -1)
    cold.choose_all()
    scan = ColdScan(store.tables, cold, 1 << 14, minimum_bytes=256, lone_share=0.25)
    begin(scan, tried)
    return scan


def begin(scan: ColdScan, tried: int = TRIED) -> None:
    scan.begin(tried)
    assert scan.step()


def describe(store: Store, batch: Reencoder, domains: set[int]) -> None:
    for index in domains:
        domain = store.domains.at(index)
        if domain is not None:
            batch.describe(index, domain.seed, domain.multipliers)


def encode(store: Store, batch: Reencoder, scan: ColdScan) -> int:
    """Picks a batch and encodes all of it; how many blocks."""
    describe(store, batch, batch.pick(scan))
    return batch.encode(batch.left, hard=False, gain_share=0.05)


def test_a_pass_is_a_few_batches() -> None:
    store = store_of(some_blocks())
    expected, before = contents(store, store.volumes[1]), store.record_bytes
    scan, batch = scan_of(store), reencoder_of(store)
    rows = scan.pending
    while scan.pending:
        assert encode(store, batch, scan) <= 8 and not batch.left
        with store.lock:
            assert batch.replace(scan, RESERVED_SEGMENTS, None)
        assert not batch.has_gained and not batch.gains()
    assert 20 < batch.replaced <= rows and store.record_bytes == before - batch.saved_bytes
    assert encodings(store).keys() >= {DENSE, DENSE_PATCHED}
    assert contents(store, store.volumes[1]) == expected
    check_store(store, decode=True)


def test_replace_takes_the_lock_itself() -> None:
    store = store_of(text(1))
    scan, batch = scan_of(store), reencoder_of(store)
    assert encode(store, batch, scan) == 1 and batch.has_gained
    is_done: list[bool] = []
    with store.lock:
        thread = threading.Thread(target=lambda: is_done.append(batch.replace(scan, RESERVED_SEGMENTS, store.lock)))
        thread.start()
        while not store.lock.somebody_waits():
            pass
        assert batch.has_gained, "nothing is done yet"
    thread.join()
    assert is_done == [True] and batch.replaced == 1
    with store.lock:
        check_store(store, decode=True)


def test_only_some_of_a_batch_are_encoded_at_once() -> None:
    store = store_of(b"".join(map(text, range(5))))
    scan, batch = scan_of(store), reencoder_of(store)
    describe(store, batch, batch.pick(scan))
    assert batch.left == 5 and not batch.has_gained
    assert batch.encode(2, hard=True, gain_share=0.02) == 2 and batch.left == 3 and len(batch.gains()) == 2
    for none in (0, -1):
        assert not batch.encode(none, hard=True, gain_share=0.02)
    assert batch.encode(9, hard=True, gain_share=0.02) == 3 and not batch.left and len(batch.gains()) == 5
    assert batch.replace(scan, RESERVED_SEGMENTS, None) and batch.replaced == 5
    check_store(store, decode=True)


def test_blocks_of_a_domain_that_is_gone_are_left_alone() -> None:
    store = store_of(text(1) + text(2))
    put(store, store.create_volume(2, 2), 0, text(1) + text(2))
    scan, batch = scan_of(store), reencoder_of(store)
    domains = batch.pick(scan)
    assert len(domains) == 2
    describe(store, batch, domains - {store.volumes[1].domain.index})
    assert batch.encode(4, hard=False, gain_share=0.05) == 4
    others = {store.volumes[2].lookup(block) & ID_MASK for block in range(2)}
    assert {row for row, *_ in batch.gains()} == others
    assert store.domains.at(2) is None and store.domains.at(65_535) is None


def test_what_is_freed_or_encoded_anew_is_not_picked() -> None:
    store = store_of(b"".join(map(text, range(6))))
    scan, batch = scan_of(store), reencoder_of(store)
    put(store, store.volumes[1], 0, bytes(2 * BLOCK_BYTES))
    rows = store.rows.where.items
    kept = [store.volumes[1].lookup(block) & ID_MASK for block in range(2, 6)]
    rows[kept[0]] ^= COMPRESSED ^ DENSE  # which it is not: nobody can read it
    rows[kept[1]] ^= 1 << 63
    assert encode(store, batch, scan) == 2
    assert [row for row, *_ in batch.gains()] == kept[2:]
    rows[kept[0]] ^= COMPRESSED ^ DENSE
    rows[kept[1]] ^= 1 << 63


def test_without_room_nothing_has_changed() -> None:
    store = store_of(text(1) + text(2))
    scan, batch = scan_of(store), reencoder_of(store)
    assert encode(store, batch, scan) == 2
    log, where = store.pool.log, store.rows.where.items
    before, most = [where[row] for row, *_ in batch.gains()], log.most_segments
    log.most_segments = log.allocated_segments
    for _ in range(2):
        assert not batch.replace(scan, 1, None)
    assert [where[row] for row, *_ in batch.gains()] == before and not scan.pending
    log.most_segments = most
    assert batch.replace(scan, 1, None) and batch.replaced == 2
    check_store(store, decode=True)


def test_what_is_put_back_is_picked_again_and_once() -> None:
    store = store_of(b"".join(map(text, range(16))))
    scan, first, second, third = scan_of(store), *(reencoder_of(store, most) for most in (8, 8, 16))
    rows = scan.numbers()
    for _ in range(2):
        assert encode(store, first, scan) == 8
    begin(scan)
    assert encode(store, second, scan) == 8
    first.put_back(scan)
    assert not first.left and scan.numbers() == rows[8:] + rows[8:]
    first.put_back(scan)
    assert encode(store, third, scan) == 8, "none of them twice"
    assert third.replace(scan, RESERVED_SEGMENTS, None) and second.replace(scan, RESERVED_SEGMENTS, None)
    second.put_back(scan)
    assert not scan.pending and second.replaced == third.replaced == 8
    check_store(store, decode=True)


COLUMNS = ("where", "digest", "reference", "domain")
WORDS = st.one_of(
    st.builds(lambda bit: lambda word: word ^ 1 << bit, st.integers(0, 63)),
    st.builds(lambda word: lambda _: word, st.one_of(st.integers(0, 2**64 - 1), st.integers(0, 60))),
)
DAMAGE = st.lists(st.tuples(st.sampled_from(COLUMNS), st.integers(0, BLOCKS + 10), WORDS), max_size=6)


def readable(store: Store) -> list[bytes | None]:
    """Each block, as far as it can be read."""
    volume, found = store.volumes[1], list[bytes | None]()
    for block in range(volume.blocks):
        try:
            found.append(store.read(volume, block * BLOCK_BYTES, BLOCK_BYTES))
        except CorruptBlock:
            found.append(None)
    return found


@given(DAMAGE, st.booleans(), st.integers(1, 16))
def test_damage_is_not_followed(
    damage: list[tuple[str, int, Callable[[int], int]]], is_late: bool, most_blocks: int
) -> None:
    """Of tables, before they are read or after: what could be read can be read, and is what it was."""
    store = store_of(some_blocks())

    def strike() -> None:
        for name, row, change in damage:
            items = getattr(store.rows, name).items
            items[row] = change(items[row]) & (1 << 8 * items.itemsize) - 1

    scan, batch = scan_of(store, TRIED | 1 << DENSE | 1 << DENSE_PATCHED), reencoder_of(store, most_blocks)
    if not is_late:
        strike()
        begin(scan)
    domains = batch.pick(scan)
    if is_late:
        strike()
    before = readable(store)
    rounds = 0
    while batch.left or scan.pending:
        if not batch.left:
            domains = batch.pick(scan)
        describe(store, batch, domains)
        batch.encode(most_blocks, hard=False, gain_share=0.05)
        assert batch.replace(scan, RESERVED_SEGMENTS, None)
        rounds += 1
        assert rounds < 10 * BLOCKS
    assert all(old is None or old == new for old, new in zip(before, readable(store), strict=True))
    store.close()


def test_it_works_without_the_interpreters_lock() -> None:
    """Another thread gets on, though nobody is made to give the lock up."""
    store = store_of(b"".join(map(text, range(8))))
    scan, batch = scan_of(store), reencoder_of(store)
    begun, went_on = threading.Event(), threading.Event()

    def other() -> None:
        begun.wait()
        went_on.set()

    thread = threading.Thread(target=other)
    thread.start()
    interval_s = sys.getswitchinterval()
    sys.setswitchinterval(1e6)
    try:
        begun.set()
        while not went_on.is_set():
            begin(scan)
            encode(store, batch, scan)
    finally:
        sys.setswitchinterval(interval_s)
        thread.join()


@pytest.mark.parametrize("most_blocks", (0, 257))
def test_other_sizes_are_refused(most_blocks: int) -> None:
    store = store_of(text(1))
    with pytest.raises(ValueError, match="a batch of"):
        reencoder_of(store, most_blocks)
    batch = reencoder_of(store, 256)
    with pytest.raises(ValueError, match="a key of 6 numbers"):
        batch.describe(0, 1, store.volumes[1].domain.multipliers[:6])


def test_many_batches_at_once_by_two_passes() -> None:
    """Both have picked the same rows: the one that comes later leaves them alone."""
    store = store_of(some_blocks())
    expected, chance = contents(store, store.volumes[1]), random.Random(1)
    scans, batches = [scan_of(store), scan_of(store)], [reencoder_of(store), reencoder_of(store)]
    while scans[0].pending or scans[1].pending:
        turn = [(encode(store, batch, scan), batch, scan) for batch, scan in zip(batches, scans, strict=True)]
        chance.shuffle(turn)
        for _, batch, scan in turn:
            assert batch.replace(scan, RESERVED_SEGMENTS, None)
    assert all(store.rows.where.items[row] & ENCODING_MASK != PATCHED for row in range(FIRST_ROW, BLOCKS // 2))
    assert contents(store, store.volumes[1]) == expected
    check_store(store, decode=True)


def test_a_patch_whose_reference_is_another_block_by_now_stays_as_it_is() -> None:
    """Row and word of a patch can be what they were, and the row of its reference have another content."""
    store = Store(MemoryHome(), 64 << 20)
    volume, rows = store.create_volume(1, 1), store.rows
    put(store, volume, 0, text(1))
    put(store, volume, BLOCK_BYTES, near(text(1), 1, 60))
    scan, batch = scan_of(store), reencoder_of(store)
    encode(store, batch, scan)
    ((row, base),) = [(row, base) for row, base, _, is_patch in batch.gains() if is_patch]
    before = rows.where.items[row]
    rows.digest.items[base] ^= 1
    assert batch.replace(scan, RESERVED_SEGMENTS, None) and rows.where.items[row] == before
    rows.digest.items[base] ^= 1
    assert contents(store, volume) == text(1) + near(text(1), 1, 60)
    check_store(store, decode=True)
