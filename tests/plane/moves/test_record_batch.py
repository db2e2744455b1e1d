"""Batches that go to the tier, come back, or go from pieces into one; rows that have changed keep what they have."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from blockstore.plane.moves.placed_rows import PlacedRows
from blockstore.plane.moves.publish import call_at_points
from blockstore.plane.moves.record_batch import RecordBatch
from blockstore.store.state.geometry import RAW, SEGMENT_BYTES
from blockstore.store.state.location import PAGED_PLACE, pack, place_of, size_of, start_of, unpack_paged
from tests.plane.moves.moving import Moving


class Tier(Moving):
    """With pieces in memory: their contents and generations."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed)
        self.generation = array("q", [1] * 100)
        self.contents: dict[int, bytes] = {}

    def pick(self, placed: PlacedRows, most_rows: int = 2048, most_bytes: int = SEGMENT_BYTES) -> RecordBatch:
        return RecordBatch(self.pool.log, self.pool.epochs, placed, self.generation, 0, most_rows, most_bytes)

    def publish(self, batch: RecordBatch, piece: int) -> None:
        """As paging does it, when the tier has it."""
        self.contents[PAGED_PLACE + piece] = batch.data
        batch.drop_changed(self.generation, 0)
        batch.publish(piece)
        self.take_back()

    def publish_back(self, batch: RecordBatch) -> bool:
        batch.drop_changed(self.generation, 0)
        self.pool.make_room_for(max(batch.size_bytes, 1), 0)
        try:
            return batch.publish_back()
        finally:
            self.take_back()

    def take_back(self) -> None:
        let_go = self.pool.log.take_back()
        if let_go is not None:
            self.pool.forgotten(let_go[1])

    def record(self, row: int) -> bytes:
        word = self.where.items[row]
        if place_of(word) < PAGED_PLACE:
            return super().record(row)
        return self.contents[place_of(word)][start_of(word) : start_of(word) + size_of(word)]

    def page_out(self, places: list[int], first_piece: int, **limits: int) -> list[int]:
        """Moves all; returns the pieces that came of it."""
        placed, pieces = self.placed(places), list[int]()
        while placed.left:
            batch = self.pick(placed, **limits)
            batch.gather(self.contents)
            if len(batch):
                self.publish(batch, first_piece + len(pieces))
                pieces.append(first_piece + len(pieces))
        return pieces


@settings(max_examples=25)
@given(st.integers(0, 1 << 30), st.integers(1, 400), st.integers(8191, SEGMENT_BYTES))
def test_out_rewritten_and_back(seed: int, most_rows: int, most_bytes: int) -> None:
    tier = Tier(seed)
    tier.fill(900)
    places = tier.chance.sample(range(tier.pool.head), tier.pool.head)
    inside = [row for row in tier.records if tier.place(row) in places]
    allocated = tier.pool.allocated_segments
    tier.generation = array("q", [1] * 2000)
    pieces = tier.page_out(places, 0, most_rows=most_rows, most_bytes=most_bytes)
    assert [row for row in tier.records if tier.place(row) >= PAGED_PLACE] == inside
    assert all(len(tier.contents[PAGED_PLACE + piece]) <= most_bytes for piece in pieces)
    assert tier.pool.allocated_segments == allocated - len(places)
    tier.check()

    rewritten = tier.page_out([PAGED_PLACE + piece for piece in pieces[:5]], 1000)
    for piece in pieces[:5]:
        del tier.contents[PAGED_PLACE + piece]
    tier.check()

    placed = tier.placed([PAGED_PLACE + piece for piece in rewritten])
    while placed.left:
        batch = tier.pick(placed, most_rows, most_bytes)
        batch.gather(tier.contents)
        assert tier.publish_back(batch)
    assert not [row for row in inside if tier.place(row) - PAGED_PLACE in rewritten]
    tier.check()


def test_the_records_of_a_piece_are_in_order() -> None:
    tier = Tier()
    tier.fill(600, 3000, 4000)
    order = {row: (place_of(word) != 1, start_of(word)) for row in tier.records if (word := tier.where.items[row])}
    rows = [row for row in tier.records if tier.place(row) in (0, 1)]
    pieces = tier.page_out([1, 0], 7)
    where = {row: unpack_paged(tier.where.items[row]) for row in rows}
    assert sorted(rows, key=lambda row: order[row]) == sorted(rows, key=lambda row: where[row][:2])
    assert [where[row][2] for row in rows] == [len(tier.records[row]) for row in rows]
    assert {piece for piece, _, _ in where.values()} == set(pieces)


def test_rows_that_have_changed_keep_what_they_have() -> None:
    for back in (False, True):
        tier = Tier()
        rows = tier.fill(200, 3000, 4000)
        if back:
            tier.page_out([0], 3)
        batch = tier.pick(tier.placed([PAGED_PLACE + 3 if back else 0]))
        batch.gather(tier.contents)
        for row in rows[::3]:
            word = tier.where.items[row]
            if place_of(word) >= PAGED_PLACE:
                tier.where.items[row] = 0
                del tier.records[row]
            else:
                tier.free(row)
        count = len(batch)
        if back:
            assert tier.publish_back(batch)
        else:
            tier.publish(batch, 4)
        assert 0 < len(batch) < count
        assert batch.size_bytes == sum(len(tier.records[row]) for row in rows if row in tier.records)
        assert all((tier.place(row) >= PAGED_PLACE) is not back for row in rows if row in tier.records)
        tier.check()


def test_nothing_is_published_of_a_place_that_means_something_else_by_now() -> None:
    tier = Tier()
    tier.fill(600, 3000, 4000)
    batch = tier.pick(tier.placed([0]))
    batch.gather({})
    tier.pool.segments.generation[0] += 1
    batch.drop_changed(tier.generation, 0)
    assert not len(batch) and not batch.size_bytes
    tier.page_out([0], 3)
    batch = tier.pick(tier.placed([PAGED_PLACE + 3]))
    batch.gather(tier.contents)
    tier.generation[3] += 1
    batch.drop_changed(tier.generation, 0)
    assert not len(batch)
    batch = tier.pick(tier.placed([PAGED_PLACE + 3]))
    batch.gather(tier.contents)
    batch.drop_changed(tier.generation, 1)
    assert not len(batch), "damage was mended meanwhile"
    batch.publish(9)
    assert batch.publish_back()
    tier.check()


def test_a_segment_is_there_until_it_was_gathered() -> None:
    tier = Tier()
    rows = [row for row in tier.fill(600, 3000, 4000) if tier.place(row) == 0]
    kept = b"".join(tier.records[row] for row in rows)
    batch = tier.pick(tier.placed([0]))
    for row in rows:
        tier.free(row)
    tier.pool.forgotten([0])
    tier.pool._reclaim()
    assert tier.pool.is_allocated(0)
    batch.gather({})
    assert batch.data == kept
    tier.pool._reclaim()
    assert not tier.pool.is_allocated(0)
    picked = tier.pick(tier.placed([1]))
    retired = tier.pool.epochs.retire()
    assert not tier.pool.epochs.is_over(retired)
    del picked
    assert tier.pool.epochs.is_over(retired), "a batch that is dropped is outside"


def test_a_piece_that_is_not_there() -> None:
    tier = Tier()
    tier.fill(600, 3000, 4000)
    tier.page_out([0], 3)
    batch = tier.pick(tier.placed([PAGED_PLACE + 3]))
    with pytest.raises(KeyError):
        batch.gather({})
    assert tier.pool.epochs.is_over(tier.pool.epochs.retire())
    tier.check()


def test_damaged_words() -> None:
    """What is not there is zeros; what there cannot be is left alone."""
    tier = Tier()
    rows = tier.fill(8, 1000, 1000)
    last = tier.pool.segments.count - 1
    paged = PAGED_PLACE * SEGMENT_BYTES
    words = [
        pack(100, 0, RAW),
        pack((last + 1) * SEGMENT_BYTES - 10, 4096, RAW),
        pack((last + 1) * SEGMENT_BYTES, 100, RAW),
        pack(paged + SEGMENT_BYTES + 95, 50, RAW),
        pack(paged + 2 * SEGMENT_BYTES - 1, 8191, RAW),
        pack(paged + 99_999 * SEGMENT_BYTES, 100, RAW),
    ]
    for row, word in zip(rows, words, strict=False):
        tier.where.items[row] = word
        del tier.records[row]
    places = [0, last, last + 1, PAGED_PLACE + 1, PAGED_PLACE + 99_999]
    batch = tier.pick(tier.placed(places))
    batch.gather({PAGED_PLACE + 1: bytes(range(100))})
    assert len(batch) == 5
    kept = b"".join(tier.records[row] for row in rows[6:])
    assert batch.data == kept + bytes(4096) + bytes(range(95, 100)) + bytes(45 + 8191)
    tier.publish(batch, 5)
    for number in (0, 2, 5):
        assert tier.where.items[rows[number]] == words[number]
    for row in (rows[1], rows[3], rows[4]):
        assert tier.place(row) == PAGED_PLACE + 5


def test_what_is_asked_for_out_of_order_is_refused() -> None:
    tier = Tier()
    tier.fill(20)
    with pytest.raises(TypeError):
        RecordBatch(None, None, None, tier.generation, 0, 1, 1)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="segment"):
        tier.pick(tier.placed([0]), most_bytes=SEGMENT_BYTES + 1)
    batch = tier.pick(tier.placed([0]))
    for call in (batch.publish_back, lambda: batch.publish(1), lambda: batch.drop_changed(tier.generation, 0)):
        with pytest.raises(ValueError, match="gathered"):
            call()
    batch.gather({})
    data = batch.data
    batch.gather({})
    assert batch.data is data
    with pytest.raises(ValueError, match="piece"):
        batch.publish(1 << 27)
    tier.check()


def test_no_room_to_come_back() -> None:
    tier = Tier()
    tier.fill(600, 3000, 4000)
    tier.page_out([0], 3)
    batch = tier.pick(tier.placed([PAGED_PLACE + 3]))
    batch.gather(tier.contents)
    batch.drop_changed(tier.generation, 0)
    log = tier.pool.log
    assert log.spare < 0 and log.head_end - log.tail < batch.size_bytes
    assert not batch.publish_back() and not log.error
    tier.check()


@pytest.mark.parametrize("back", (False, True))
def test_dead_at_each_store(back: bool) -> None:
    """Before each of them every row has its record: the old one, the one in the piece, or the one that came back."""
    tier = Tier()
    tier.fill(600, 3000, 4000)
    if back:
        tier.page_out([0], 3)
    batch = tier.pick(tier.placed([PAGED_PLACE + 3 if back else 0]))
    batch.gather(tier.contents)
    count, points = len(batch), 0

    def at_point() -> None:
        nonlocal points
        points += 1
        for row, record in tier.records.items():
            assert tier.record(row) == record

    call_at_points(at_point)
    try:
        if back:
            assert tier.publish_back(batch)
        else:
            tier.publish(batch, 3)
    finally:
        call_at_points(None)
    assert points == count > 100
    tier.check()
