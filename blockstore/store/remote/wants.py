"""What is not here: the records and remote blocks that a reader lacks, and keeping them when they were fetched.

Everything here is done at the store, and takes microseconds; fetch.py asks the tier and the sources in between.
"""

from __future__ import annotations

from collections.abc import Sequence

from blockstore.store.decode import Decoder
from blockstore.store.remote.arrivals import Arrivals, Due
from blockstore.store.remote.fetch import Fetched, Want, Wants
from blockstore.store.remote.record_cache import RecordCache
from blockstore.store.state.geometry import DUE, FIRST_ROW, ID_MASK, PAGED, PATCH_BITS
from blockstore.store.state.location import unpack_paged
from blockstore.store.state.pool import Pool
from blockstore.store.state.rows import Rows
from blockstore.store.steps import Blocks


def missing(rows: Rows, cache: RecordCache, arrivals: Arrivals, blocks: Blocks) -> Wants:
    """What is not here, and without which these blocks cannot be decoded, references included."""
    entries = blocks.volume.entries(blocks.first, blocks.end - blocks.first).tolist()
    wants: Wants = [*missing_of_rows(rows, cache, [entry & ID_MASK for entry in entries])]
    return wants + missing_arrivals(arrivals, [entry for entry in entries if entry & ID_MASK == DUE])


def missing_arrivals(arrivals: Arrivals, entries: Sequence[int]) -> list[Due]:
    """The blocks of these map entries, which are due, that are neither at hand nor known to be here or lost."""
    found = {}
    for entry in entries:
        due = arrivals.due(entry)
        if due is None or arrivals.known[due.place] or due.place in arrivals.lost:
            continue
        if arrivals.get(due.place) is None:
            found[due.place] = due
    return list(found.values())


def missing_of_rows(rows: Rows, cache: RecordCache, of_rows: Sequence[int]) -> list[Want]:
    """The same for rows."""
    found: dict[int, Want] = {}

    def look_at(row: int) -> int:
        where = rows.where.items[row] if FIRST_ROW <= row < rows.capacity else 0
        if where & PAGED and cache.get(where) is None and (generation := cache.generation(where)) >= 0:
            found[where] = Want(where, generation)
        return where

    for row in of_rows:
        if look_at(row) & PATCH_BITS == PATCH_BITS:
            look_at(rows.reference.items[row])
    return list(found.values())


def keep(decoder: Decoder, pool: Pool, fetched: Fetched) -> None:
    """Have it all at hand for decoding, as far as it is still what was asked for. What the tier or a source has lost is
    damaged from now on, for all who ask."""
    for (where, generation), record in fetched.records:
        decoder.cache.enter(where, generation, record)
        pool.pieces.heat[unpack_paged(where)[0]] += 1
    for where, generation in fetched.missing:
        pool.pieces.miss(unpack_paged(where)[0], generation)
    for due, content in fetched.arrived:
        pool.arrivals.enter(due, content)
    for due in fetched.lost:
        pool.arrivals.miss(due)


def keep_again(decoder: Decoder, pool: Pool, fetched: Fetched) -> None:
    """Have what was kept before at hand once more. It is not counted as read again."""
    for (where, generation), record in fetched.records:
        decoder.cache.enter(where, generation, record)
    for due, content in fetched.arrived:
        pool.arrivals.enter(due, content)
