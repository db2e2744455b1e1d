"""Verification beside a store that changes: it tells what is wrong, and nothing else; repair puts counts right."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest

from blockstore.store.checks import verify, verify_pieces
from blockstore.store.checks.verify import Verification
from blockstore.store.checks.verify_pieces import PieceCheck
from blockstore.store.moves.mover import Mover
from blockstore.store.state.geometry import BLOCK_BYTES, FIRST_ROW, ID_MASK, LOST_ENTRY, PAGED, PATCHED
from blockstore.store.state.home import MemoryHome
from blockstore.store.steps import run
from blockstore.store.store import Store
from blockstore.store.tiers.file import FileTier
from blockstore.store.volume import Volume
from tests.store.invariants import check_store
from tests.store.material import near, noise, put, text

BLOCKS = [noise(1), text(1), near(text(1), 1), noise(1), text(2), bytes(BLOCK_BYTES)]


@pytest.fixture
def store() -> Iterator[Store]:
    store = Store(MemoryHome(), 64 << 20)
    write(store, 1, 0)
    yield store
    store.close()


def write(store: Store, number: int, first: int) -> None:
    """Writes the blocks to a new volume, one by one, for patches are against what is stored already."""
    volume = store.create_volume(number, 1)
    for place, block in enumerate(BLOCKS, first):
        put(store, volume, place * BLOCK_BYTES, block)


def row_of(volume: Volume, block: int) -> int:
    return int(volume.lookup(block)) & ID_MASK


def kinds(store: Store, *, repair: bool = False) -> list[str]:
    result = Verification()
    run(verify.steps(store, result, repair=repair))
    assert result.found == len(result.findings) and result.done <= result.total
    return [finding.kind for finding in result.findings]


def test_what_is_sound_has_no_findings(store: Store) -> None:
    result = Verification()
    run(verify.steps(store, result, repair=False))
    assert (result.volumes, result.blocks, result.rows, result.found) == (1, len(BLOCKS), store.rows.live, 0)
    assert result.record_bytes == store.record_bytes and store.rows.changed is None


@pytest.mark.parametrize("off", (1, -1, 1000))
def test_counts_are_compared_and_put_right(store: Store, off: int) -> None:
    volume, rows = store.volumes[1], store.rows
    for block, column, change in ((0, rows.count, off), (1, rows.dependents, abs(off))):
        row = row_of(volume, block)
        column.items[row] += change
        assert kinds(store) == ["count"] == kinds(store, repair=True)
        assert kinds(store) == []
    check_store(store, decode=True)


@pytest.mark.parametrize("is_patch", (False, True))
def test_a_row_that_nothing_points_at_is_freed(store: Store, is_patch: bool) -> None:
    """Its reference counts one patch less, and is an orphan then if nothing else needs it."""
    volume, rows = store.volumes[1], store.rows
    block = 2 if is_patch else 4
    row, live = row_of(volume, block), rows.live
    assert (rows.where.items[row] & 7 == PATCHED) == is_patch
    volume.map[block] = LOST_ENTRY
    assert kinds(store) == ["block", "count", "orphan"]
    assert rows.live == live
    assert kinds(store, repair=True) == ["block", "count", "orphan"]
    assert rows.live == live - 1 and not rows.where.items[row]
    assert kinds(store) == ["block"]
    check_store(store)


def test_findings_are_of_the_blocks_that_they_name(store: Store) -> None:
    volume, rows = store.volumes[1], store.rows
    put(store, volume, 1000 * BLOCK_BYTES, noise(7) + noise(8) + noise(9))
    rows.digest.items[row_of(volume, 1001)] ^= 1 << 5  # its record does not give that
    volume.map[1002] ^= 1 << 40
    volume.map[5] = LOST_ENTRY
    result = Verification()
    run(verify.steps(store, result, repair=False))
    told = {(finding.kind, finding.offset): finding.text for finding in result.findings}
    assert told.pop(("block", 5 * BLOCK_BYTES)).endswith("is lost")
    assert told.pop(("block", 1001 * BLOCK_BYTES)).endswith("cannot be read")
    assert "its map entry, or the row" in told.pop(("block", 1002 * BLOCK_BYTES))
    assert {kind for kind, _ in told} == {"record", "count", "orphan"} and result.found == 6


EVENTS: dict[str, Callable[[Store, Volume], None]] = {
    "overwrite": lambda store, volume: put(store, volume, 0, noise(90) + near(text(2), 9) + text(91)),
    "discard": lambda store, volume: run(store.discard_steps(volume, 0, 3 * BLOCK_BYTES)),
    "delete": lambda store, volume: run(store.delete_steps(volume)),
    "grow": lambda store, volume: put(store, volume, volume.size_bytes, b"".join(map(noise, range(5000, 10_000)))),
    "share": lambda store, volume: write(store, 2, 0),
}


@pytest.mark.parametrize("event", EVENTS)
def test_what_changes_meanwhile_is_no_finding(store: Store, event: str) -> None:
    """At any step of looking at records, at the maps, and of counting and comparing."""
    total = sum(1 for _ in verify.steps(store, Verification(), repair=False))
    for at_step in (0, 1, 2, total // 2, total - 4, total - 3, total - 2):
        fresh, result = Store(MemoryHome(), 64 << 20), Verification()
        write(fresh, 1, 300)
        put(fresh, fresh.volumes[1], 0, b"".join(map(noise, range(300))))
        for step, _ in enumerate(verify.steps(fresh, result, repair=False)):
            if step == at_step:
                EVENTS[event](fresh, fresh.volumes[1])
        assert not result.findings, at_step
        fresh.close()


@pytest.fixture
def tier(store: Store, tmp_path: Path) -> Iterator[FileTier]:
    """With all that the store had: texts, and patches against them in the pool."""
    tier = FileTier(str(tmp_path / "tier"), bytes(16))
    tier.check()
    put(store, store.volumes[1], 0, b"".join(text(number) if number % 2 else noise(number) for number in range(900)))
    assert Mover(store.paging, store.pool, tier, nullcontext()).out(1)
    yield tier
    tier.close()


def paged_blocks(store: Store) -> list[int]:
    volume = store.volumes[1]
    return [block for block in range(volume.blocks) if store.rows.where.items[row_of(volume, block)] & PAGED]


def unreadable(store: Store, tier: FileTier, monkeypatch: pytest.MonkeyPatch, at_step: int = -1) -> PieceCheck:
    """Looks at all pieces; after so many steps the first paged block is overwritten."""
    monkeypatch.setattr(verify_pieces, "ROWS_A_STEP", 64)
    check = PieceCheck(store, Verification())
    steps, answer, taken = check.steps(), None, 0
    while True:
        try:
            ask = steps.send(answer)
        except StopIteration:
            return check
        answer = ask(tier) if ask is not None else None
        if taken == at_step:
            put(store, store.volumes[1], paged_blocks(store)[0] * BLOCK_BYTES, noise(77_777))
        taken += 1


def test_a_whole_piece_is_looked_at_in_parts(store: Store, tier: FileTier, monkeypatch: pytest.MonkeyPatch) -> None:
    result = Verification()
    assert not unreadable(store, tier, monkeypatch).unreadable
    run(verify.steps(store, result, repair=False))
    assert not result.findings and paged_blocks(store)


def test_rows_of_a_missing_piece_are_those_that_still_need_it(
    store: Store, tier: FileTier, monkeypatch: pytest.MonkeyPatch
) -> None:
    (piece,) = store.pool.pieces.numbers()
    tier.delete(piece)
    paged = {row for row in range(FIRST_ROW, store.rows.capacity) if store.rows.where.items[row] & PAGED}
    affected = paged | {
        row
        for row in range(FIRST_ROW, store.rows.capacity)
        if store.rows.where.items[row] & 3 == 3 and store.rows.reference.items[row] in paged
    }
    assert unreadable(store, tier, monkeypatch).unreadable.keys() == affected
    first = row_of(store.volumes[1], paged_blocks(store)[0])
    check = unreadable(store, tier, monkeypatch, at_step=store.rows.capacity // 64 // 2)
    assert not store.rows.where.items[first] & PAGED, "its row was freed, and given to another content"
    assert first in affected and check.unreadable.keys() == affected - {first}
    result = Verification()
    run(verify.steps(store, result, repair=False, unreadable=check.unreadable))
    volume = store.volumes[1]
    lost = [block for block in range(volume.blocks) if row_of(volume, block) in check.unreadable]
    assert [(finding.kind, finding.offset) for finding in result.findings] == [
        ("block", block * BLOCK_BYTES) for block in lost
    ]


def test_a_damaged_word_of_a_free_row_frees_nothing(store: Store) -> None:
    """Nothing of it was ever counted, and the row must not be free twice."""
    volume = store.volumes[1]
    run(store.discard_steps(volume, 0, BLOCK_BYTES))
    run(store.discard_steps(volume, 3 * BLOCK_BYTES, BLOCK_BYTES))
    (free,), live_bytes = store.rows.free.numbers(), store.record_bytes
    never_taken = store.rows.next_row + 5
    for row in (free, never_taken):
        store.rows.where.items[row] ^= 1 << 15
    assert kinds(store, repair=True).count("orphan") == 2
    assert store.rows.free.numbers() == [free] and store.record_bytes == live_bytes
    assert not store.rows.where.items[free] and not store.rows.where.items[never_taken]
    assert kinds(store) == []
    put(store, volume, 0, noise(7) + noise(8))
    check_store(store, decode=True)
