"""What must hold in every state between any two steps, recomputed from its files alone (state_files.py).

Digests, counts and places are all counted anew; nothing of the product is asked. What a store *says* about itself can
be compared with that (`Figures`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from blockstore.store.store import Store
from tests.store import live
from tests.store.records import (
    BLOCK_BYTES,
    ENCODINGS,
    FREE,
    RAW,
    SEGMENT_BYTES,
    ZSTD_FIRST,
    ZSTD_SECOND,
    Damaged,
    Elsewhere,
    digest,
)
from tests.store.state_files import (
    DICTIONARY_VERSION,
    DUE,
    DUE_FACTOR,
    FIRST_ROW,
    FORMAT_VERSION,
    MARKS,
    PIECE_LENGTH_MASK,
    ROW_BYTES,
    SUPERBLOCK_MAGIC,
    VOLUME_MAGIC,
    Numbers,
    State,
    Volume,
    Words,
    size_word,
)

HEADS = 1
"""Segments to which records are being appended; only these may hold nothing that is live."""

SPARES = 1
"""Segments that are taken, and to which nothing was written yet."""


@dataclass(frozen=True)
class Figures:
    """What a store says of itself; `live_bytes` by segment, `piece_live_bytes` by piece, `touched_blocks` by volume."""

    live_rows: int
    live_bytes: Numbers
    piece_live_bytes: Numbers
    allocated_segments: int
    garbage_bytes: int
    touched_blocks: dict[int, int]


def figures_of(store: Store) -> Figures:
    """What this store says now."""
    pool = store.pool
    return Figures(
        store.rows.live,
        np.array(pool.segments.live_bytes),
        np.array(pool.pieces.live_bytes),
        pool.allocated_segments,
        pool.garbage_bytes,
        {number: volume.touched_blocks for number, volume in store.volumes.items()},
    )


def check_store(store: Store, *, decode: bool = False) -> None:
    """Raises AssertionError, with all that is wrong, when the files of an open store contradict each other or what it
    says. `decode` as in `violations`."""
    check_state(State(live.files_of(store)), decode=decode, figures=figures_of(store))


def check_nothing_twice(store: Store) -> None:
    """No two rows of a domain hold the same content. Holds unless records were damaged."""
    twice = list(contents_that_come_twice(State(live.files_of(store))))
    assert not twice, "; ".join(twice)


def check_state(state: State, *, decode: bool = False, figures: Figures | None = None) -> None:
    """Raises AssertionError with all that is wrong in a state; `decode` as in `violations`."""
    found = list(violations(state, decode=decode, figures=figures))
    assert not found, "; ".join(found)


def violations(state: State, *, decode: bool = False, figures: Figures | None = None) -> Iterator[str]:
    """All that is wrong in the state, a sentence each.

    With `decode` every digest is computed anew: of headers, of domains, and of the content of every live row, but for
    those in a tier that the state was read without. Not for stores damaged on purpose.
    """
    yield from _superblock(state)
    yield from _domains(state, decode=decode)
    for volume in state.volumes:
        yield from _header(volume, decode=decode)
        yield from _map(state, volume)
    yield from _counts(state)
    yield from _rows(state)
    yield from _dictionaries(state)
    yield from _records(state)
    yield from _pieces(state)
    if figures is not None:
        yield from _figures(state, figures)
    if decode:
        yield from _contents(state)


def contents_that_come_twice(state: State) -> Iterator[str]:
    """A sentence for each row whose content another row of its domain has."""
    seen: dict[tuple[int, bytes], int] = {}
    for row in np.flatnonzero(state.where).tolist():
        try:
            key = (int(state.domain[row]), state.content(row))
        except Elsewhere:
            continue
        if seen.setdefault(key, row) != row:
            yield f"row {row} holds a content that row {seen[key]} of its domain holds"


def _superblock(state: State) -> Iterator[str]:
    found = state.superblock
    if found is None:
        return  # a store in memory
    if found.magic != SUPERBLOCK_MAGIC or found.version not in (FORMAT_VERSION, DICTIONARY_VERSION):
        yield f"the superblock says {found.magic!r}, version {found.version}"
    if (found.block_bytes, found.segment_bytes, found.row_bytes) != (BLOCK_BYTES, SEGMENT_BYTES, ROW_BYTES):
        yield "the superblock has another geometry"


def _domains(state: State, *, decode: bool) -> Iterator[str]:
    volumes = Counter(volume.domain_key for volume in state.volumes)
    keys = Counter(domain.key for domain in state.domains)
    for key in keys | volumes:
        if keys[key] != 1 or not volumes[key]:
            yield f"domain {key} is {keys[key]} times in the table, and has {volumes[key]} volumes"
    for domain in state.domains if decode else ():
        if digest(domain.key.to_bytes(8, "little"), domain.seed) != domain.check:
            yield f"the key, the seed or the check of domain {domain.key} is damaged"


def _header(volume: Volume, *, decode: bool) -> Iterator[str]:
    if volume.magic != VOLUME_MAGIC or volume.name != f"volume-{volume.number}":
        yield f"{volume.name} is no map of volume {volume.number}"
    key = volume.number.to_bytes(8, "little") + volume.domain_key.to_bytes(8, "little")
    if decode and volume.digest != digest(key, VOLUME_MAGIC):
        yield f"the digest of the header of {volume.name} is wrong"
    if volume.size_word != size_word(volume.size_bytes):
        yield f"the size of {volume.name} is damaged"
    elif volume.size_bytes > volume.capacity * BLOCK_BYTES:
        yield f"the map of {volume.name} does not cover its size"


def _map(state: State, volume: Volume) -> Iterator[str]:
    ids, checks = _ids(volume.entries), (volume.entries >> np.uint64(32)).astype(np.int64)
    beyond = volume.blocks * BLOCK_BYTES >= volume.size_bytes
    if beyond.any():
        yield f"{volume.name}: {beyond.sum()} entries beyond its size are no holes"
    right = np.zeros(len(ids), dtype=np.bool_)
    for mark, check in MARKS.items():
        right |= (ids == mark) & (checks == check)
    right |= (ids == DUE) & (checks % DUE_FACTOR == 0) & (checks // DUE_FACTOR < state.arrivals)
    is_row = (ids >= FIRST_ROW) & (ids < state.rows_capacity)
    if not (right | is_row).all():
        yield f"{volume.name}: the entries of blocks {volume.blocks[~(right | is_row)][:4].tolist()} are damaged"
    rows, blocks = ids[is_row], volume.blocks[is_row]
    others = (state.digest[rows] >> np.uint64(32)).astype(np.int64) != checks[is_row]
    if others.any():
        yield f"{volume.name}: blocks {blocks[others][:4].tolist()} map other contents"
    free = state.where[rows] == 0
    if free.any():
        yield f"{volume.name}: blocks {blocks[free][:4].tolist()} map free rows"
    indexes = [domain.index for domain in state.domains if domain.key == volume.domain_key]
    foreign = ~np.isin(state.domain[rows], indexes)
    if foreign.any():
        yield f"{volume.name}: blocks {blocks[foreign][:4].tolist()} map rows of another domain"


def _counts(state: State) -> Iterator[str]:
    counts = np.zeros(state.rows_capacity, dtype=np.int64)
    for volume in state.volumes:
        ids = _ids(volume.entries)
        ids = ids[(ids >= FIRST_ROW) & (ids < state.rows_capacity)]
        counts += np.bincount(ids, minlength=state.rows_capacity)
    for row in np.flatnonzero(state.count != counts).tolist():
        yield f"row {row} is counted {state.count[row]} times, maps point at it {counts[row]} times"
    dependents = _dependents(state)
    for row in np.flatnonzero(state.dependents != dependents).tolist():
        yield f"row {row} has {dependents[row]} patches against it, counted are {state.dependents[row]}"
    needed, live = (counts > 0) | (dependents > 0), state.where != 0
    if (needed & ~live).any():
        yield f"rows {np.flatnonzero(needed & ~live)[:4].tolist()} are free and needed"
    if (live & ~needed).any():
        yield f"rows {np.flatnonzero(live & ~needed)[:4].tolist()} are live, and nothing points at them"


def _rows(state: State) -> Iterator[str]:
    encoding = state.encoding
    if not set(np.unique(encoding).tolist()) <= {FREE, *ENCODINGS}:
        yield "a row has an encoding that is not known"
    if ((state.where != 0) & (encoding == FREE)).any():
        yield "a free row has a record"
    if state.where[:FIRST_ROW].any():
        yield "a block id that is no row's has a record"
    patched = np.flatnonzero(encoding & 3 == 3)
    references = state.reference[patched]
    outside = (references < FIRST_ROW) | (references >= state.rows_capacity)
    if outside.any():
        yield f"rows {patched[outside][:4].tolist()} have references that are no rows"
    patched, references = patched[~outside], references[~outside]
    for wrong, what in (
        (encoding[references] & 3 == 3, "a patch itself"),
        (state.where[references] == 0, "free"),
        (state.domain[patched] != state.domain[references], "another domain's"),
    ):
        if wrong.any():
            yield f"the references of rows {patched[wrong][:4].tolist()} are {what}"
    unknown = ~np.isin(state.domain[np.flatnonzero(state.where)], [domain.index for domain in state.domains])
    if unknown.any():
        yield f"{unknown.sum()} live rows have a domain that is not in the table"


def _dictionaries(state: State) -> Iterator[str]:
    """What rows need is there, and of a version of the format that has such."""
    rows = np.flatnonzero(np.isin(state.encoding, (ZSTD_FIRST, ZSTD_SECOND)))
    needed = {(int(state.domain[row]), int(state.encoding[row]) - ZSTD_FIRST) for row in rows.tolist()}
    if missing := needed - state.dictionaries.keys():
        yield f"rows need the dictionaries {sorted(missing)}, which are not there"
    indexes = {domain.index for domain in state.domains}
    if strange := {place for place in state.dictionaries if place[0] not in indexes}:
        yield f"the dictionaries {sorted(strange)} are of no domain"
    if needed and state.superblock is not None and state.superblock.version != DICTIONARY_VERSION:
        yield f"rows need dictionaries, and the state is of version {state.superblock.version}"


def _records(state: State) -> Iterator[str]:
    """Those in the pool: each within a segment and within what has memory, no two at one place."""
    rows = np.flatnonzero((state.where != 0) & ~state.is_paged)
    rows = rows[np.argsort(state.offset[rows], kind="stable")]
    starts, sizes = state.offset[rows], state.size[rows]
    ends = starts + sizes
    yield from _sizes(state, rows)
    overlapping = starts[1:] < ends[:-1]
    if overlapping.any():
        yield f"the records of rows {rows[1:][overlapping][:4].tolist()} overlap with others"
    crossing = starts // SEGMENT_BYTES != (ends - 1) // SEGMENT_BYTES
    if crossing.any():
        yield f"the records of rows {rows[crossing][:4].tolist()} cross segments"
    data = np.array(state.pool_data, dtype=np.int64).reshape(-1, 2)
    found = np.searchsorted(data[:, 0], starts, side="right") - 1
    lacking = (found < 0) | (ends > np.where(found < 0, 0, data[:, 1].take(found, mode="clip") if len(data) else 0))
    if lacking.any():
        yield f"the records of rows {rows[lacking][:4].tolist()} lie where the pool has no memory"
    empty = _written_segments(state) - set((starts // SEGMENT_BYTES).tolist())
    if len(empty) > HEADS:
        yield f"segments {sorted(empty)} hold nothing and were not given back"


def _sizes(state: State, rows: Numbers) -> Iterator[str]:
    sizes = state.size[rows]
    wrong = (sizes == 0) | (sizes > BLOCK_BYTES) | ((state.encoding[rows] == RAW) & (sizes != BLOCK_BYTES))
    if wrong.any():
        yield f"the records of rows {rows[wrong][:4].tolist()} have sizes that cannot be"


def _pieces(state: State) -> Iterator[str]:
    """Records in the tier: each within a piece that the table has, no two at one place."""
    rows = np.flatnonzero(state.is_paged)
    yield from _sizes(state, rows)
    rows = rows[np.lexsort((state.offset[rows], state.piece[rows]))]
    pieces, starts = state.piece[rows], state.offset[rows]
    ends = starts + state.size[rows]
    lengths = np.append(state.piece_lengths, 0)[np.minimum(pieces, len(state.pieces))]
    if (ends > lengths).any():
        yield f"the records of rows {rows[ends > lengths][:4].tolist()} lie beyond the ends of their pieces"
    overlapping = (pieces[1:] == pieces[:-1]) & (starts[1:] < ends[:-1])
    if overlapping.any():
        yield f"the records of rows {rows[1:][overlapping][:4].tolist()} overlap with others of their pieces"
    unneeded = set(np.flatnonzero(state.pieces).tolist()) - set(pieces.tolist())
    if unneeded:
        yield f"pieces {sorted(unneeded)[:4]} are in the table, and no row needs them"
    if (state.piece_lengths > SEGMENT_BYTES).any():
        yield "a piece is longer than a slot"


def _figures(state: State, figures: Figures) -> Iterator[str]:
    live, size, is_paged = state.where != 0, state.size, state.is_paged
    if figures.live_rows != live.sum():
        yield f"the store says that {figures.live_rows} rows are live, and {live.sum()} are"
    for what, said, rows, places in (
        ("segment", figures.live_bytes, live & ~is_paged, state.offset // SEGMENT_BYTES),
        ("piece", figures.piece_live_bytes, is_paged, state.piece),
    ):
        inside = rows & (places < len(said))
        counted = np.bincount(places[inside], size[inside], minlength=len(said)).astype(np.int64)
        for place in np.flatnonzero(counted != said).tolist():
            yield f"{what} {place} has {counted[place]} live bytes, the store says {said[place]}"
    filled = len(_written_segments(state))
    if not 0 <= figures.allocated_segments - filled <= SPARES:
        yield f"the store says that {figures.allocated_segments} segments are allocated, and {filled} have memory"
    if figures.garbage_bytes < 0:
        yield f"the store says that {figures.garbage_bytes} bytes are garbage"
    touched = {volume.number: len(volume.blocks) for volume in state.volumes}
    if figures.touched_blocks != touched:
        yield f"the store says that its volumes touched {figures.touched_blocks} blocks, and they touched {touched}"


def _contents(state: State) -> Iterator[str]:
    seeds = {domain.index: domain.seed for domain in state.domains}
    for row in np.flatnonzero(state.where).tolist():
        try:
            found = digest(state.content(row), seeds.get(int(state.domain[row]), 0))
        except Elsewhere:
            continue
        except Damaged as error:
            yield f"row {row} is damaged: {error}"
            continue
        if found != int(state.digest[row]):
            yield f"row {row} is damaged: its record decodes to another content"


def check_pieces_of(state: State, pieces: dict[int, bytes]) -> None:
    """Raises AssertionError if these, of the tier, are not those that the table names."""
    words = {piece: digest(data, 0) & ~PIECE_LENGTH_MASK | len(data) for piece, data in pieces.items()}
    assert words == {piece: int(state.pieces[piece]) for piece in np.flatnonzero(state.pieces).tolist()}


def _ids(entries: Words) -> Numbers:
    return (entries & np.uint64(0xFFFF_FFFF)).astype(np.int64)


def _dependents(state: State) -> Numbers:
    references = state.reference[state.encoding & 3 == 3]
    return np.bincount(references[references < state.rows_capacity], minlength=state.rows_capacity)


def _written_segments(state: State) -> set[int]:
    """Those that have memory, but for pages of zeros: a damaged row had these read, and a read gives a hole memory."""
    live = set((state.offset[(state.where != 0) & ~state.is_paged] // SEGMENT_BYTES).tolist())
    found = {
        segment for start, end in state.pool_data for segment in range(start // SEGMENT_BYTES, -(-end // SEGMENT_BYTES))
    }
    return {segment for segment in found if segment in live or state.is_written(segment)}
