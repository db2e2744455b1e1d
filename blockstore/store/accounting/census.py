"""The census: which block of which volume is stored how, and who pays which part of what is stored.

Every touched block is counted in exactly one class, so the classes add up to `touched` by construction. A
record that several map entries share is paid for by all of them in equal parts. What is one sum for all
volumes (records, tables, pool) is split so that the volumes add up to the total, to the byte.

Taken in steps of well under a millisecond. When the store changes between two steps, each block is counted as
it was at its own step. Reads the tables, writes nothing.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import numpy.typing as npt

from blockstore.store.accounting.apportion import apportion
from blockstore.store.accounting.classes import CLASSES, POOL_RECORDS, RECORDS
from blockstore.store.state.geometry import (
    COMPRESSED,
    DENSE,
    DENSE_PATCHED,
    DUE,
    ENCODING_MASK,
    FIRST_ROW,
    HOLE,
    ID_MASK,
    LOST,
    PATCHED,
    ZERO_ENTRY,
)
from blockstore.store.state.location import are_paged, encodings_of, sizes_of
from blockstore.store.steps import Outcome, Steps, run
from blockstore.store.store import Store
from blockstore.store.volume import Volume

WINDOW: Final = 8192
"""Map entries or rows that one step looks at: under 0.3 ms with 200,000 rows, more where caches miss more."""

_SPAN: Final = 16 * WINDOW
"""Blocks in which one step looks for map entries that have memory: a sparse volume is passed over so fast."""

_ZERO, _SHARED, _PATCHED, _COMPRESSED, _DENSE, _RAW, _IN_TIER = range(len(CLASSES))
_CLASS_OF: Final = np.full(ENCODING_MASK + 1, _RAW, dtype=np.int64)
_CLASS_OF[[PATCHED, COMPRESSED, DENSE, DENSE_PATCHED]] = _PATCHED, _COMPRESSED, _DENSE, _DENSE
_REFERENCES: Final = RECORDS.index("references")
_FIRST_RECORD: Final = _SHARED
"""The zero block has no record, so a class number less this is a place in RECORDS."""


def _none_of(names: Sequence[str]) -> dict[str, int]:
    return dict.fromkeys(names, 0)


@dataclass
class VolumeCensus:
    """Of one volume, or of all: `blocks` by class, and its part of the bytes of records, tables and pool."""

    logical_bytes: int = 0
    blocks: dict[str, int] = field(default_factory=lambda: _none_of(CLASSES))
    record_bytes: dict[str, int] = field(default_factory=lambda: _none_of(RECORDS))
    table_bytes: int = 0
    pool_bytes: int = 0

    @property
    def touched_blocks(self) -> int:
        """Blocks that were written and not freed."""
        return sum(self.blocks.values())

    @property
    def stored_bytes(self) -> int:
        """Bytes of live records in the pool."""
        return sum(self.record_bytes[name] for name in POOL_RECORDS)


@dataclass
class Census:
    """All volumes by number, and their sum. Without a volume the total may still have tables."""

    volumes: dict[int, VolumeCensus] = field(default_factory=dict)
    total: VolumeCensus = field(default_factory=VolumeCensus)


def take(store: Store) -> Census:
    """The census, in one go."""
    census = Census()
    run(steps(store, census))
    return census


def steps(store: Store, census: Census) -> Steps:
    """Fill an empty census; it is complete after the last step. Volumes deleted meanwhile are left out."""
    parts: dict[int, npt.NDArray[np.float64]] = {}
    for volume in list(store.volumes.values()):
        counted, part = np.zeros(len(CLASSES), dtype=np.int64), np.zeros(len(RECORDS))
        for window in _windows(volume):
            _count(store, window, counted, part)
            yield Outcome.WENT_ON
        if not volume.deleted:
            blocks = dict(zip(CLASSES, counted.tolist(), strict=True))
            census.volumes[volume.number] = VolumeCensus(volume.size_bytes, blocks)
            parts[volume.number] = part
    record_bytes = np.zeros(len(RECORDS), dtype=np.int64)
    for first in range(FIRST_ROW, store.rows.next_row, WINDOW):
        record_bytes += _record_bytes(store, first)
        yield Outcome.WENT_ON
    total = census.total
    total.record_bytes = dict(zip(RECORDS, record_bytes.tolist(), strict=True))
    total.table_bytes, total.pool_bytes = store.table_bytes, store.pool.allocated_bytes
    for number in list(census.volumes):
        if number not in store.volumes or store.volumes[number].deleted:
            del census.volumes[number], parts[number]
    yield from _split(census, [parts[number] for number in census.volumes])


def _windows(volume: Volume) -> Iterator[npt.NDArray[np.uint64]]:
    """The map of the volume in pieces of at most WINDOW entries; what has no memory is left out, or is empty.

    Which entries have memory is asked anew for each piece: it may be given back between two steps.
    """
    position = 0
    while not volume.deleted and position < volume.blocks:
        stop = min(position + _SPAN, volume.blocks)
        ranges = volume.prepared(position, stop)
        start, end = ranges[0] if ranges else (stop, stop)
        position = min(end, start + WINDOW)
        yield np.asarray(volume.map[start:position])


def _count(
    store: Store,
    entries: npt.NDArray[np.uint64],
    counted: npt.NDArray[np.int64],
    part: npt.NDArray[np.float64],
) -> None:
    """Add the blocks of these map entries to `counted` by class, and their parts of records to `part`."""
    entries = entries[entries != HOLE]
    ids = entries & np.uint64(ID_MASK)
    ids[ids >= store.rows.capacity] = LOST  # a damaged entry: it was written, but nothing keeps it
    where, count = store.rows.where.array[ids], store.rows.count.array[ids]
    kind = _kinds(where, count)
    kind[entries == ZERO_ENTRY] = _ZERO
    kind[ids == DUE] = _IN_TIER
    counted += np.bincount(kind, minlength=len(CLASSES))
    paid = sizes_of(where) / np.maximum(count, 1)
    part[:_REFERENCES] += np.bincount(kind, weights=paid, minlength=len(CLASSES))[_FIRST_RECORD:]


def _record_bytes(store: Store, first: int) -> npt.NDArray[np.int64]:
    """Bytes by kind of record of the rows in one window."""
    end = min(first + WINDOW, store.rows.next_row)
    where, count = store.rows.where.array[first:end], store.rows.count.array[first:end]
    kind = _kinds(where, count) - _FIRST_RECORD
    kind[(count == 0) & ~are_paged(where)] = _REFERENCES  # a free row is among them, with a size of 0
    return np.bincount(kind, weights=sizes_of(where), minlength=len(RECORDS)).astype(np.int64)


def _kinds(where: npt.NDArray[np.uint64], count: npt.NDArray[np.uint32]) -> npt.NDArray[np.int64]:
    """The class of each row, as a place in CLASSES."""
    kind: npt.NDArray[np.int64] = _CLASS_OF[encodings_of(where)]
    kind[count > 1] = _SHARED
    kind[are_paged(where)] = _IN_TIER
    return kind


def _split(census: Census, parts: list[npt.NDArray[np.float64]]) -> Steps:
    """Give each volume its part of what is known only in total, and the total its sums. One column a step."""
    volumes, total = list(census.volumes.values()), census.total
    total.logical_bytes = sum(volume.logical_bytes for volume in volumes)
    for name in CLASSES:
        total.blocks[name] = sum(volume.blocks[name] for volume in volumes)
    for place, name in enumerate(RECORDS):
        # References serve the patches of all; who keeps more in the store bears more of them.
        weights = [float(part.sum() if place == _REFERENCES else part[place]) for part in parts]
        for volume, share in zip(volumes, apportion(total.record_bytes[name], weights), strict=True):
            volume.record_bytes[name] = share
        yield Outcome.WENT_ON
    touched = [float(volume.touched_blocks) for volume in volumes]
    for volume, share in zip(volumes, apportion(total.table_bytes, touched), strict=True):
        volume.table_bytes = share
    yield Outcome.WENT_ON
    stored = [float(volume.stored_bytes) for volume in volumes]
    for volume, share in zip(volumes, apportion(total.pool_bytes, stored), strict=True):
        volume.pool_bytes = share
    yield Outcome.WENT_ON
