"""Verification of what is in the tier: each piece is read whole, and everything in it decoded.

Before verify.py looks at all the rest, for which it needs to know what of the tier cannot be read.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any, NamedTuple

from blockstore.plane.tables.cross_count import rows_that_need
from blockstore.store.checks.repair import Repair
from blockstore.store.checks.verify import RECORDS_A_STEP, ROWS_A_STEP, Finding, Verification
from blockstore.store.decode import Decoder
from blockstore.store.moves.pieces import word_of
from blockstore.store.remote import fetch
from blockstore.store.remote.record_cache import RecordCache
from blockstore.store.remote.wants import missing_of_rows
from blockstore.store.state.location import PAGED_PLACE, place_of, unpack_paged
from blockstore.store.steps import NotHere
from blockstore.store.store import Store
from blockstore.store.tiers import PieceMissing, Tier

Ask = Callable[[Tier], Any]
"""To be asked of the tier, away from the store; may raise TierAway."""

Steps = Generator[Ask | None, Any, None]
"""Each `Ask` wants its answer sent; None is a step that was taken."""


class _Content(NamedTuple):
    """What the tier has as a piece, and its word."""

    data: bytes
    word: int


class PieceCheck:
    """Of one verification. `unreadable` has rows that cannot be decoded, with their words when they were looked at."""

    def __init__(self, store: Store, result: Verification) -> None:
        self._store = store
        self._result = result
        self._divided: set[int] = set()
        self.unreadable: dict[int, int] = {}

    def steps(self) -> Steps:
        """All pieces, then the patches that have one piece for themselves and another for their reference."""
        pieces = self._store.pool.pieces
        for piece in pieces.numbers():
            generation, length = int(pieces.generation[piece]), pieces.length(piece)
            if length:
                found = yield partial(_whole, piece, length)
                if generation == pieces.generation[piece]:  # else nobody needs it any more
                    yield from self._look(piece, generation, found)
        divided = sorted(self._divided)
        for start in range(0, len(divided), RECORDS_A_STEP):
            rows = divided[start : start + RECORDS_A_STEP]
            cache = RecordCache(pieces, most_records=2 * len(rows))
            wants = missing_of_rows(self._store.rows, cache, rows)
            answer: fetch.Fetched = yield partial(fetch.read, sources={}, wants=wants)
            for (where, generation), record in answer.records:
                cache.enter(where, generation, record)
            yield from self._decode(rows, cache)

    def _look(self, piece: int, generation: int, found: _Content | None) -> Steps:
        """The tier has this, or nothing, as the piece: decode what is in it, and the patches against that."""
        store, rows = self._store, self._store.rows
        affected = yield from self._needing(piece)
        if generation != store.pool.pieces.generation[piece]:  # meanwhile
            return
        words = [where for row in affected if place_of(where := rows.where.items[row]) == PAGED_PLACE + piece]
        if found is None or not store.pool.pieces.is_whole(piece, found.word):
            what = "is missing" if found is None else "is not what was put there"
            self._result.add(Finding("piece", f"piece {piece} of the tier, with {len(words)} records, {what}"))
        if found is None:
            one = array("I", [0])  # some may have been freed meanwhile, and be rows of other contents
            still = [row for row in affected if rows_that_need(store.tables, piece, row, one)]
            self.unreadable.update((row, rows.where.items[row]) for row in still)
            return
        cache = RecordCache(store.pool.pieces, most_records=len(words))
        for word in words:
            _, offset, size_bytes = unpack_paged(word)
            cache.enter(word, generation, found.data[offset : offset + size_bytes])
        yield from self._decode(affected, cache)

    def _needing(self, piece: int) -> Generator[Ask | None, Any, array[int]]:
        """Rows that have their records in the piece, and patches against such. No row comes to need it meanwhile."""
        found, places = array("I"), array("I", bytes(4 * ROWS_A_STEP))
        capacity = self._store.rows.capacity
        for first in range(0, capacity, ROWS_A_STEP):
            part = memoryview(places)[: capacity - first]
            found.extend(places[: rows_that_need(self._store.tables, piece, first, part)])
            yield None
        return found

    def _decode(self, affected: Sequence[int], cache: RecordCache) -> Steps:
        """Those that need another piece as well are for later."""
        store, rows = self._store, self._store.rows
        check = Repair(rows, store.pool, Decoder(rows, store.pool, store.tables, cache), store.domains.seeds())
        for number, row in enumerate(affected):
            if not number % RECORDS_A_STEP:
                yield None
            where = rows.where.items[row]
            try:
                is_whole = not where or row in self.unreadable or check.is_whole(row)
            except NotHere:
                self._divided.add(row)
                continue
            if not is_whole:
                self.unreadable[row] = where
                text = f"the record of row {row} does not decode to what was written; the tier has it, or its reference"
                self._result.add(Finding("record", text, row=row))


def run(steps: Steps, tier: Tier) -> None:
    """Take them all now. Raises TierAway."""
    answer = None
    try:
        while True:
            ask = steps.send(answer)
            answer = ask(tier) if ask is not None else None
    except StopIteration:
        return


def _whole(piece: int, length: int, tier: Tier) -> _Content | None:
    try:
        data = tier.read(piece, 0, length)
    except PieceMissing:
        return None
    return _Content(data, word_of(data))
