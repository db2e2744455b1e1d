"""The census: which block of which volume is stored how, and who pays which part of what is stored.

Every touched block is counted in exactly one class, so the classes add up to `touched` by construction. A
record that several map entries share is paid for by all of them in equal parts. What is one sum for all
volumes (records, tables, pool) is split so that the volumes add up to the total, to the byte.

Taken in steps of well under a millisecond. When the store changes between two steps, each block is counted as
it was at its own step. Reads the tables, writes nothing.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from blockstore.plane.tables.census import count_blocks, count_record_bytes
from blockstore.store.accounting.apportion import apportion
from blockstore.store.accounting.classes import CLASSES, POOL_RECORDS, RECORDS
from blockstore.store.state.geometry import FIRST_ROW
from blockstore.store.steps import Outcome, Steps, run
from blockstore.store.store import Store

WINDOW: Final = 1 << 14
"""Map entries or rows that one step looks at: 70 us with 400,000 rows, more where caches miss more."""

_SPAN: Final = 1 << 26
"""Blocks in which one step looks for map entries that have memory: a sparse volume is passed over so fast."""

_REFERENCES: Final = RECORDS.index("references")


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
    parts: dict[int, array[float]] = {}
    for volume in list(store.volumes.values()):
        counted, part = array("q", [0] * len(CLASSES)), array("d", [0.0] * len(RECORDS))
        block = 0
        while not volume.deleted and block < volume.blocks:
            end = min(block + _SPAN, volume.blocks)
            block = count_blocks(store.tables, volume.block_map, block, end, WINDOW, counted, part)
            yield Outcome.WENT_ON
        if not volume.deleted:
            blocks = dict(zip(CLASSES, counted, strict=True))
            census.volumes[volume.number] = VolumeCensus(volume.size_bytes, blocks)
            parts[volume.number] = part
    record_bytes = array("q", [0] * len(RECORDS))
    for first in range(FIRST_ROW, store.rows.next_row, WINDOW):
        count_record_bytes(store.tables, first, min(first + WINDOW, store.rows.next_row), record_bytes)
        yield Outcome.WENT_ON
    total = census.total
    total.record_bytes = dict(zip(RECORDS, record_bytes, strict=True))
    total.table_bytes, total.pool_bytes = store.table_bytes, store.pool.allocated_bytes
    for number in list(census.volumes):
        if number not in store.volumes or store.volumes[number].deleted:
            del census.volumes[number], parts[number]
    yield from _split(census, [parts[number] for number in census.volumes])


def _split(census: Census, parts: Sequence[Sequence[float]]) -> Steps:
    """Give each volume its part of what is known only in total, and the total its sums. One column a step."""
    volumes, total = list(census.volumes.values()), census.total
    total.logical_bytes = sum(volume.logical_bytes for volume in volumes)
    for name in CLASSES:
        total.blocks[name] = sum(volume.blocks[name] for volume in volumes)
    for place, name in enumerate(RECORDS):
        # References serve the patches of all; who keeps more in the store bears more of them.
        weights = [sum(part) if place == _REFERENCES else part[place] for part in parts]
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
