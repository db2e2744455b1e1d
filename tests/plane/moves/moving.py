"""Rows, a pool and the tables of both, without a store around them: for tests of what moves records."""

from __future__ import annotations

import random
from array import array

from blockstore.plane.moves.placed_rows import PlacedRows
from blockstore.plane.tables.tables import Tables
from blockstore.store.state.geometry import COMPRESSED
from blockstore.store.state.home import Home, MemoryHome
from blockstore.store.state.location import PAGED_PLACE, offset_of, pack, place_of, size_of
from blockstore.store.state.pool import Pool
from blockstore.store.state.rows import Rows

LIMIT_BYTES = 16 << 20


class Moving:
    """Rows with records of random bytes and sizes; `records` has what each was given."""

    def __init__(self, seed: int = 0, home: Home | None = None, limit_bytes: int = LIMIT_BYTES) -> None:
        home = home or MemoryHome()
        self.chance = random.Random(seed)
        self.tables = Tables()
        self.pool = Pool(home, limit_bytes, self.tables)
        self.rows = Rows(home, self.tables)
        self.where = self.rows.where
        self.records: dict[int, bytes] = {}

    def fill(self, count: int, least_bytes: int = 1, most_bytes: int = 4096) -> list[int]:
        """Appends so many records, and returns their rows."""
        self.rows.reserve(count)
        rows = [int(row) for row in self.rows.take(count)]
        for row in rows:
            self.put(row, self.chance.randbytes(self.chance.randint(least_bytes, most_bytes)))
        return rows

    def put(self, row: int, record: bytes) -> None:
        """Appends the record of a row."""
        self.pool.make_room_for(len(record), 0)
        placed = self.pool.log.append(record, array("Q", [len(record)]))
        assert placed is not None
        split, first, second = placed
        self.where.items[row] = pack(first if split else second, len(record), COMPRESSED)
        self.records[row] = record

    def free(self, row: int) -> None:
        """Frees a row; its record is garbage."""
        word = self.where.items[row]
        self.where.items[row] = 0
        self.pool.segments.live_bytes[place_of(word)] -= size_of(word)
        del self.records[row]

    def place(self, row: int) -> int:
        return place_of(self.where.items[row])

    def record(self, row: int) -> bytes:
        """What the pool has for a row now."""
        word = self.where.items[row]
        return bytes(self.pool.view[offset_of(word) : offset_of(word) + size_of(word)])

    def placed(self, places: list[int]) -> PlacedRows:
        """The sorted list of rows in these places."""
        found = PlacedRows(self.tables)
        found.begin(places)
        while found.scan(self.rows.next_row, 1000):
            pass
        found.sort()
        return found

    def live_bytes(self) -> dict[int, int]:
        """By segment that has any, counted from the words."""
        counted: dict[int, int] = {}
        for row in range(self.rows.next_row):
            word = self.where.items[row]
            if word and place_of(word) < PAGED_PLACE:
                counted[place_of(word)] = counted.get(place_of(word), 0) + size_of(word)
        return counted

    def booked_bytes(self) -> dict[int, int]:
        """By segment that has any, as the pool has it."""
        return {place: int(count) for place, count in enumerate(self.pool.segments.live_bytes) if count}

    def check(self) -> None:
        """Each row has its record, and the pool knows it."""
        for row, record in self.records.items():
            assert self.record(row) == record, f"row {row}"
        assert self.booked_bytes() == self.live_bytes()
