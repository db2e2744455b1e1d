"""Verification of what is in the tier: each piece is read whole, and everything in it decoded.

Before verify.py looks at all the rest, for which it needs to know what of the tier cannot be read.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from functools import partial
from typing import Any

import numpy as np

from blockstore.store.checks.repair import Repair
from blockstore.store.checks.verify import RECORDS_A_STEP, Finding, Verification
from blockstore.store.decode import Decoder
from blockstore.store.remote import fetch
from blockstore.store.remote.record_cache import RecordCache
from blockstore.store.remote.wants import missing_of_rows
from blockstore.store.state.location import PAGED_PLACE, are_patches, places_of, unpack_paged
from blockstore.store.steps import NotHere
from blockstore.store.store import Store
from blockstore.store.tiers import PieceMissing, Tier

Ask = Callable[[Tier], Any]
"""To be asked of the tier, away from the store; may raise TierAway."""

Steps = Generator[Ask | None, Any, None]
"""Each `Ask` wants its answer sent; None is a step that was taken."""


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
                data = yield partial(_whole, piece, length)
                if generation == pieces.generation[piece]:  # else nobody needs it any more
                    yield from self._look(piece, generation, data)
        divided = sorted(self._divided)
        for start in range(0, len(divided), RECORDS_A_STEP):
            rows = divided[start : start + RECORDS_A_STEP]
            cache = RecordCache(pieces, most_records=2 * len(rows))
            wants = missing_of_rows(self._store.rows, cache, rows)
            answer: fetch.Fetched = yield partial(fetch.read, sources={}, wants=wants)
            for (where, generation), record in answer.records:
                cache.enter(where, generation, record)
            yield from self._decode(rows, cache)

    def _look(self, piece: int, generation: int, data: bytes | None) -> Steps:
        """The tier has this, or nothing, as the piece: decode what is in it, and the patches against that."""
        store, rows = self._store, self._store.rows
        where = rows.where.array
        is_inside = places_of(where) == PAGED_PLACE + piece
        # By a table, for faults wait meanwhile: isin would double the time. A damaged reference is clipped.
        is_against = np.append(is_inside, False).take(rows.reference.array, mode="clip") & are_patches(where)
        inside = np.flatnonzero(is_inside)
        affected: list[int] = np.flatnonzero(is_inside | is_against).tolist()
        if data is None or not store.pool.pieces.is_whole(piece, data):
            what = "is missing" if data is None else "is not what was put there"
            self._result.add(Finding("piece", f"piece {piece} of the tier, with {len(inside)} records, {what}"))
        if data is None:
            self.unreadable.update((row, rows.where.items[row]) for row in affected)
            return
        cache = RecordCache(store.pool.pieces, most_records=len(inside))
        for word in where[inside].tolist():
            _, offset, size_bytes = unpack_paged(word)
            cache.enter(word, generation, data[offset : offset + size_bytes])
        yield from self._decode(affected, cache)

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


def _whole(piece: int, length: int, tier: Tier) -> bytes | None:
    try:
        return tier.read(piece, 0, length)
    except PieceMissing:
        return None
