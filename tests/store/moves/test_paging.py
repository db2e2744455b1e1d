"""Paging: what goes to the tier and comes back, what is left alone meanwhile, and what the loss of a piece means."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from contextlib import nullcontext, suppress
from pathlib import Path

import numpy as np
import pytest

from blockstore.errors import CorruptBlock, OutOfRoom
from blockstore.plane.codec import codec
from blockstore.store.checks import verify, verify_pieces
from blockstore.store.checks.verify import Verification
from blockstore.store.checks.verify_pieces import PieceCheck
from blockstore.store.moves import pieces as piece_columns
from blockstore.store.moves.mover import Mover
from blockstore.store.moves.paging import OUT_RECORDS
from blockstore.store.moves.pieces import Pieces, word_of
from blockstore.store.state.geometry import BLOCK_BYTES, FIRST_ROW, PAGED, PATCH_BITS, SEGMENT_BYTES
from blockstore.store.state.home import MemoryHome
from blockstore.store.state.location import unpack_paged
from blockstore.store.steps import Blocks, NotHere, run
from blockstore.store.store import Store
from blockstore.store.tiers import TierAway
from blockstore.store.tiers.file import FileTier
from blockstore.store.volume import Volume
from tests.store.columns import column
from tests.store.invariants import check_store
from tests.store.material import contents, densify, fetch_from, near, noise, put, text
from tests.store.tiers.faulty import FaultyTier

BLOCKS = 1000
"""Almost four segments of noise: three are full."""


@pytest.fixture
def tier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyTier]:
    monkeypatch.setattr("blockstore.store.tiers.file.EXTENT_BYTES", 4 << 20)
    tier = FaultyTier(FileTier(str(tmp_path / "tier"), bytes(16)))
    tier.check()
    yield tier
    tier.close()


@pytest.fixture
def store() -> Store:
    return Store(MemoryHome(), 32 << 20)


@pytest.fixture
def volume(store: Store) -> Volume:
    volume = store.create_volume(1, 1)
    put(store, volume, 0, DATA)
    return volume


@pytest.fixture
def mover(store: Store, tier: FaultyTier) -> Mover:
    return Mover(store.paging, store.pool, tier, nullcontext())


DATA = b"".join(map(noise, range(BLOCKS)))


def all_out(mover: Mover) -> None:
    while mover.out():
        pass


def paged_rows(store: Store) -> list[int]:
    return np.flatnonzero(column(store.rows.where) >= np.uint64(PAGED)).tolist()


def piece_of(store: Store, volume: Volume, block: int) -> int:
    return unpack_paged(store.rows.where.items[volume.lookup(block) & 0xFFFF_FFFF])[0]


def verified(store: Store, tier: FaultyTier) -> Verification:
    result = Verification()
    check = PieceCheck(store, result)
    verify_pieces.run(check.steps(), tier)
    for _ in verify.steps(store, result, repair=False, unreadable=check.unreadable):
        pass
    return result


def test_full_segments_leave_the_pool_and_can_be_read(
    store: Store, volume: Volume, mover: Mover, tier: FaultyTier
) -> None:
    before = store.pool.allocated_segments
    all_out(mover)
    assert before - store.pool.allocated_segments == store.pool.pieces.count == 3
    assert sorted(tier.pieces()) == store.pool.pieces.numbers()
    with pytest.raises(NotHere):
        store.read(volume, 0, BLOCK_BYTES)
    assert contents(store, volume, tier) == DATA
    check_store(store, decode=True)
    assert not verified(store, tier).found


def test_a_read_fetches_no_more_than_it_needs(store: Store, volume: Volume, mover: Mover, tier: FaultyTier) -> None:
    all_out(mover)
    asked: list[int] = []

    class Counting(FaultyTier):
        def read(self, piece: int, offset: int, length: int) -> bytes:
            asked.append(length)
            return super().read(piece, offset, length)

    for first, end in ((20, 21), (160, 168)):
        fetch_from(store, Counting(tier))(Blocks(volume, first, end))
        assert asked.pop() == (end - first) * BLOCK_BYTES and not asked, "neighbours are asked for together"


def test_a_piece_of_tiny_records_is_no_long_visit(store: Store, mover: Mover, tier: FaultyTier) -> None:
    blocks = [number.to_bytes(8, "little") * 4 + bytes(BLOCK_BYTES - 32) for number in range(1, 40_000)]
    volume = store.create_volume(2, 1)
    put(store, volume, 0, b"".join(blocks))
    all_out(mover)
    assert store.pool.pieces.count > 10
    places = [unpack_paged(store.rows.where.items[row])[0] for row in paged_rows(store)]
    assert max(np.bincount(places)) == OUT_RECORDS
    assert contents(store, volume, tier) == b"".join(blocks)
    check_store(store, decode=False)


def test_the_coldest_go_first(store: Store, volume: Volume, mover: Mover) -> None:
    first = store.rows.where.items[volume.lookup(0) & 0xFFFF_FFFF]
    store.paging.saw(first)
    assert mover.out(1)
    assert not store.rows.where.items[volume.lookup(0) & 0xFFFF_FFFF] & PAGED
    assert store.rows.where.items[volume.lookup(300) & 0xFFFF_FFFF] & PAGED, "the second segment was not seen"


def test_a_write_of_part_of_a_block_fetches_it(store: Store, volume: Volume, mover: Mover, tier: FaultyTier) -> None:
    all_out(mover)
    steps = store.write_steps(volume, 100, b"x" * 50)
    assert next(steps) == Blocks(volume, 0, 1)
    assert next(steps) == Blocks(volume, 0, 1), "asked again until it is there"
    fetch_from(store, tier)(Blocks(volume, 0, 1))
    run(steps)
    assert contents(store, volume, tier) == DATA[:100] + b"x" * 50 + DATA[150:]


def test_whole_blocks_are_written_without_asking_the_tier(
    store: Store, volume: Volume, mover: Mover, tier: FaultyTier
) -> None:
    all_out(mover)
    tier.calls.clear()
    similar = b"".join(near(noise(number), number) for number in range(100))
    put(store, volume, 0, DATA[: 100 * BLOCK_BYTES])
    put(store, volume, 100 * BLOCK_BYTES, similar)
    assert not tier.calls
    assert contents(store, volume, tier) == DATA[: 100 * BLOCK_BYTES] + similar + DATA[200 * BLOCK_BYTES :]
    check_store(store, decode=True)


def test_sparse_pieces_become_one_and_empty_ones_go(
    store: Store, volume: Volume, mover: Mover, tier: FaultyTier
) -> None:
    all_out(mover)
    assert not mover.rewrite(), "all is live"
    for block in range(600):
        if block % 4:
            run(store.discard_steps(volume, block * BLOCK_BYTES, BLOCK_BYTES))
    assert mover.rewrite()
    mover.sweep()
    assert store.pool.pieces.count == 2 and len(tier.pieces()) == 2
    expected = b"".join(
        noise(block) if block >= 600 or not block % 4 else bytes(BLOCK_BYTES) for block in range(BLOCKS)
    )
    assert contents(store, volume, tier) == expected
    run(store.delete_steps(volume))
    mover.sweep()
    assert not tier.pieces() and not store.pool.pieces.count
    check_store(store)


def test_what_is_warm_comes_back(store: Store, volume: Volume, mover: Mover, tier: FaultyTier) -> None:
    all_out(mover)
    piece = piece_of(store, volume, 0)
    contents(store, volume, tier)
    assert store.pool.pieces.heat[piece] > 200
    assert mover.back(piece)
    mover.sweep()
    assert piece not in tier.pieces()
    assert store.read(volume, 0, 200 * BLOCK_BYTES)
    check_store(store, decode=True)


def test_without_room_nothing_comes_back(tier: FaultyTier) -> None:
    store = Store(MemoryHome(), 8 << 20)
    volume, mover = store.create_volume(1, 1), Mover(store.paging, store.pool, tier, nullcontext())
    put(store, volume, 0, DATA)
    all_out(mover)
    with pytest.raises(OutOfRoom):
        put(store, volume, BLOCKS * BLOCK_BYTES, b"".join(map(noise, range(5000, 7000))))
    assert not mover.back(piece_of(store, volume, 0))
    assert contents(store, volume, tier)[: BLOCKS * BLOCK_BYTES] == DATA
    check_store(store, decode=True)


def test_a_failed_put_loses_nothing(store: Store, volume: Volume, mover: Mover, tier: FaultyTier) -> None:
    tier.chance = 1.0
    with pytest.raises(TierAway):
        mover.out()
    assert not paged_rows(store) and contents(store, volume) == DATA
    tier.chance = 0.0
    mover.sweep()
    assert not tier.pieces(), "what came of it is deleted"
    all_out(mover)
    assert contents(store, volume, tier) == DATA


def half_way(store: Store) -> Callable[[], None]:
    """Page a segment out up to the point where the tier has acknowledged; the other half."""
    paging = store.paging
    paging.begin(paging.coldest(1))
    while paging.scan():
        pass
    paging.sort()
    batch = paging.pick()
    batch.gather({})
    piece = store.pool.pieces.reserve()
    return lambda: paging.publish(batch, piece, word_of(batch.data))


def test_what_is_mended_meanwhile_stays(store: Store, volume: Volume) -> None:
    publish = half_way(store)
    store.pool.mend(100, store.pool.view[100])
    publish()
    assert not paged_rows(store) and store.pool.pieces.doomed and contents(store, volume) == DATA


def test_what_gets_dense_meanwhile_stays(tier: FaultyTier) -> None:
    store = Store(MemoryHome(), 32 << 20)
    volume, data = store.create_volume(1, 1), b"".join(map(text, range(900)))
    put(store, volume, 0, data)
    publish = half_way(store)
    densify(store)
    publish()
    assert not paged_rows(store)
    check_store(store, decode=True)


def test_patches_and_their_references_may_be_in_two_pieces(tier: FaultyTier) -> None:
    store = Store(MemoryHome(), 32 << 20)
    volume = store.create_volume(1, 1)
    bases = b"".join(text(number) for number in range(400))
    patches = b"".join(near(text(number), number, 60) for number in range(400))
    data = bases + b"".join(map(noise, range(300))) + patches + b"".join(map(noise, range(1000, 1600)))
    put(store, volume, 0, data)
    mover = Mover(store.paging, store.pool, tier, nullcontext())
    all_out(mover)
    words = column(store.rows.where)[paged_rows(store)]
    assert (words & np.uint64(PATCH_BITS) == np.uint64(PATCH_BITS)).sum() > 300
    assert contents(store, volume, tier) == data
    assert not verified(store, tier).found


def test_a_missing_piece_is_named_and_none_of_it_can_be_read(
    store: Store, volume: Volume, mover: Mover, tier: FaultyTier
) -> None:
    all_out(mover)
    piece, other = piece_of(store, volume, 0), piece_of(store, volume, 300)
    assert piece != other
    tier.inner.delete(piece)
    assert mover.reconcile() == 1 and store.pool.pieces.missing == {piece}
    found = verified(store, tier)
    assert found.findings[0].text.startswith(f"piece {piece} of the tier, with ")
    damaged = [finding.offset for finding in found.findings if finding.kind == "block"]
    assert 0 in damaged and 300 * BLOCK_BYTES not in damaged
    fetch_from(store, tier)(Blocks(volume, 0, 1))
    with pytest.raises(CorruptBlock, match=f"the tier has no piece {piece}"):
        store.read(volume, 0, BLOCK_BYTES)
    with pytest.raises(CorruptBlock):
        run(store.write_steps(volume, 0, b"part of a block"))
    assert not mover.back(piece)
    put(store, volume, 0, DATA)  # whole blocks
    mover.sweep()
    assert piece not in store.pool.pieces.numbers() and contents(store, volume, tier) == DATA
    check_store(store, decode=True)


def test_a_damaged_piece_is_named_and_read_as_far_as_it_can_be(
    store: Store, volume: Volume, mover: Mover, tier: FaultyTier, tmp_path: Path
) -> None:
    all_out(mover)
    piece, offset, _ = unpack_paged(store.rows.where.items[volume.lookup(5) & 0xFFFF_FFFF])
    with (tmp_path / "tier").open("r+b") as file:
        file.seek((64 << 20) + piece * SEGMENT_BYTES + offset)
        file.write(b"damage")
    found = verified(store, tier)
    assert [finding.kind for finding in found.findings] == ["piece", "record", "block"]
    assert found.findings[2].offset == 5 * BLOCK_BYTES
    fetch_from(store, tier)(Blocks(volume, 4, 6))
    assert store.read(volume, 4 * BLOCK_BYTES, BLOCK_BYTES) == noise(4)
    with pytest.raises(CorruptBlock):
        store.read(volume, 5 * BLOCK_BYTES, BLOCK_BYTES)
    assert not mover.back(piece) and piece in store.pool.pieces.unfit


def test_an_answer_that_comes_too_late_is_not_kept(
    store: Store, volume: Volume, mover: Mover, tier: FaultyTier
) -> None:
    all_out(mover)
    where = store.rows.where.items[volume.lookup(0) & 0xFFFF_FFFF]
    generation = store.decoder.cache.generation(where)
    run(store.delete_steps(volume))
    mover.sweep()
    store.decoder.cache.enter(where, generation, noise(0))
    assert store.decoder.cache.get(where) is None
    store.pool.pieces.miss(unpack_paged(where)[0], generation)
    assert not store.pool.pieces.missing


def test_numbers_are_left_when_the_state_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    pieces = Pieces(MemoryHome())

    def full(self: Pieces) -> None:
        raise OutOfRoom("full")

    monkeypatch.setattr(Pieces, "_grow", full)
    for number in range(4096):
        assert pieces.reserve() == number
    with pytest.raises(OutOfRoom):
        pieces.reserve()
    pieces.abandon(7)
    pieces.deleted(7)
    assert pieces.reserve() == 7
    pieces.close()


def test_without_memory_pieces_stay_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    """A table that is longer than a column would give numbers away that nothing can be counted for."""
    pieces = Pieces(MemoryHome())
    before, zeros, asked = pieces.live_bytes, piece_columns._zeros, list[int]()

    def fail(count: int) -> array[int]:
        asked.append(count)
        if len(asked) == 2:
            raise MemoryError
        return zeros(count)

    with monkeypatch.context() as patch:
        patch.setattr(piece_columns, "_zeros", fail)
        with pytest.raises(OutOfRoom, match="no memory"):
            pieces._grow()
    assert pieces.live_bytes is before and len(pieces.lengths()) == len(pieces.generation) == len(pieces.heat) == 4096
    for number in range(5000):
        assert pieces.reserve() == number
        pieces.enter(number, word_of(b"data"))
    columns = (pieces.live_bytes, pieces.generation, pieces.heat)
    assert {len(column) for column in columns} == {len(pieces.lengths())} and pieces.generation[4999] == 1
    pieces.close()


def test_no_piece_is_hashed_at_the_store(
    store: Store, volume: Volume, tier: FaultyTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A MiB takes as long as many faults, which would wait for it."""
    hashed, digest = list[int](), codec.digest

    def seen(data: bytes, seed: int) -> int:
        assert not lock.is_held
        hashed.append(len(data))
        return digest(data, seed)

    class Lock:
        is_held = False

        def __enter__(self) -> None:
            self.is_held = True

        def __exit__(self, *error: object) -> None:
            self.is_held = False

    lock = Lock()
    monkeypatch.setattr(piece_columns, "digest", seen)
    mover = Mover(store.paging, store.pool, tier, lock)
    all_out(mover)
    assert len(hashed) == 3
    assert all(mover.back(piece) for piece in store.pool.pieces.numbers())
    assert len(hashed) == 6 and contents(store, volume) == DATA
    all_out(mover)
    check, asked, answer = PieceCheck(store, Verification()).steps(), 0, None
    with suppress(StopIteration):
        while True:
            with lock:
                ask = check.send(answer)
            answer, asked = (ask(tier), asked + 1) if ask is not None else (None, asked)
    assert asked == 3 and len(hashed) == 12


def test_first_row_is_never_paged(store: Store, volume: Volume, mover: Mover) -> None:
    """A free row's word is 0, which is also what segment 0 begins with."""
    all_out(mover)
    assert min(paged_rows(store)) >= FIRST_ROW
