"""The census: which block of which volume is stored how, and who pays which part of what is stored.

Every touched block is counted in exactly one class, so the classes add up to `touched` by construction. A
record that several map entries share is paid for by all of them in equal parts. What is one sum for all
volumes (records, tables, pool) is split so that the volumes add up to the total, to the byte.

Snapshots are no VMs and counted apart: what a VM needs too, because it has the row or a patch against it, is that VM's
as if there were no snapshots; what only they need is theirs. Both together are what the store has, to the byte.

Taken in steps of well under a millisecond. When the store changes between two steps, each block is counted as
it was at its own step. Reads the tables, writes nothing.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from blockstore.plane.tables.census import RowUsers, count_blocks, count_record_bytes, count_snapshot_entries
from blockstore.store.accounting.apportion import apportion
from blockstore.store.accounting.classes import CLASSES, POOL_RECORDS, RECORDS
from blockstore.store.state.geometry import FIRST_ROW
from blockstore.store.steps import Outcome, Steps, run
from blockstore.store.store import Store
from blockstore.store.volume import Volume

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
        return stored_bytes(self.record_bytes)


@dataclass
class SnapshotCensus:
    """Of all snapshots together, what no VM needs: rows, their records, their part of the pool, and of the tables their
    maps and their part of what is kept for each row."""

    numbers: list[int] = field(default_factory=list)
    logical_bytes: int = 0
    rows: int = 0
    record_bytes: dict[str, int] = field(default_factory=lambda: _none_of(RECORDS))
    table_bytes: int = 0
    pool_bytes: int = 0

    @property
    def stored_bytes(self) -> int:
        """Bytes of live records in the pool."""
        return stored_bytes(self.record_bytes)


@dataclass
class Census:
    """All volumes that are no snapshots by number, their sum, and the snapshots. Without a volume and a snapshot the
    total may still have tables."""

    volumes: dict[int, VolumeCensus] = field(default_factory=dict)
    snapshots: SnapshotCensus = field(default_factory=SnapshotCensus)
    total: VolumeCensus = field(default_factory=VolumeCensus)


def stored_bytes(record_bytes: Mapping[str, int]) -> int:
    """Returns what records take in the pool; those in the tier take nothing."""
    return sum(record_bytes[name] for name in POOL_RECORDS)


def take(store: Store, snapshots: Collection[int] = ()) -> Census:
    """The census, in one go."""
    census = Census()
    run(steps(store, census, snapshots))
    return census


def steps(store: Store, census: Census, snapshots: Collection[int] = ()) -> Steps:
    """Fill an empty census; it is complete after the last step. `snapshots` are the numbers of the volumes that are
    some. Volumes deleted meanwhile are left out."""
    of_snapshots = [volume for volume in store.volumes.values() if volume.number in snapshots]
    others = [volume for volume in store.volumes.values() if volume.number not in snapshots]
    users = RowUsers(store.rows.next_row) if of_snapshots else None
    if users is not None:
        for volume in of_snapshots:
            yield from _note(volume, users)
    parts: dict[int, array[float]] = {}
    for volume in others:
        counted, part = array("q", [0] * len(CLASSES)), array("d", [0.0] * len(RECORDS))
        block = 0
        while not volume.deleted and block < volume.blocks:
            end = min(block + _SPAN, volume.blocks)
            block = count_blocks(store.tables, volume.block_map, block, end, WINDOW, counted, part, users)
            yield Outcome.WENT_ON
        if not volume.deleted:
            blocks = dict(zip(CLASSES, counted, strict=True))
            census.volumes[volume.number] = VolumeCensus(volume.size_bytes, blocks)
            parts[volume.number] = part
    yield from _count_records(store, census, users)
    for number in list(census.volumes):
        if _is_gone(store, number):
            del census.volumes[number], parts[number]
    there = [volume for volume in of_snapshots if not _is_gone(store, volume.number)]
    census.snapshots.numbers = [volume.number for volume in there]
    census.snapshots.logical_bytes = sum(volume.size_bytes for volume in there)
    _part(store, census, sum(volume.table_bytes for volume in there))
    yield from _split(census, [parts[number] for number in census.volumes])


def _note(volume: Volume, users: RowUsers) -> Steps:
    """Note what a snapshot's map points at."""
    block = 0
    while not volume.deleted and block < volume.blocks:
        end = min(block + _SPAN, volume.blocks)
        block = count_snapshot_entries(volume.block_map, block, end, WINDOW, users)
        yield Outcome.WENT_ON


def _count_records(store: Store, census: Census, users: RowUsers | None) -> Steps:
    """The records of VMs to the total, and those that only snapshots need to these."""
    of_vms, of_snapshots = (array("q", [0] * len(RECORDS)) for _ in range(2))
    for first in range(FIRST_ROW, store.rows.next_row, WINDOW):
        end = min(first + WINDOW, store.rows.next_row)
        census.snapshots.rows += count_record_bytes(store.tables, first, end, of_vms, users, of_snapshots)
        yield Outcome.WENT_ON
    census.total.record_bytes = dict(zip(RECORDS, of_vms, strict=True))
    census.snapshots.record_bytes = dict(zip(RECORDS, of_snapshots, strict=True))


def _is_gone(store: Store, number: int) -> bool:
    return number not in store.volumes or store.volumes[number].deleted


def _part(store: Store, census: Census, map_bytes: int) -> None:
    """Part what the store has between VMs and snapshots, whose maps take so much; where there are only the ones, or
    none, all is theirs, or the total's."""
    total, snapshots = census.total, census.snapshots
    if not snapshots.numbers:
        total.record_bytes = _sums(total.record_bytes, snapshots.record_bytes)
        snapshots.record_bytes, snapshots.rows = _none_of(RECORDS), 0
    elif not census.volumes:
        snapshots.record_bytes = _sums(total.record_bytes, snapshots.record_bytes)
        snapshots.rows = store.rows.live
        total.record_bytes = _none_of(RECORDS)
    all_maps = sum(volume.table_bytes for volume in store.volumes.values())
    rows = [max(store.rows.live - snapshots.rows, 0), snapshots.rows]
    total.table_bytes, snapshots.table_bytes = _shares(census, store.table_bytes - all_maps, rows)
    total.table_bytes += all_maps - map_bytes
    snapshots.table_bytes += map_bytes
    stored = [total.stored_bytes, snapshots.stored_bytes]
    total.pool_bytes, snapshots.pool_bytes = _shares(census, store.pool.allocated_bytes, stored)


def _shares(census: Census, size_bytes: int, weights: Sequence[int]) -> tuple[int, int]:
    """The VMs' and the snapshots'."""
    if census.snapshots.numbers and not census.volumes:
        return 0, size_bytes
    if not weights[1]:
        return size_bytes, 0
    of_vms, of_snapshots = apportion(size_bytes, weights)
    return of_vms, of_snapshots


def _sums(first: Mapping[str, int], second: Mapping[str, int]) -> dict[str, int]:
    return {name: first[name] + second[name] for name in first}


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
