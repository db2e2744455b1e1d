"""Verification: every record decoded, every map entry and every count looked at; and repair of what can be.

What is in the tier is looked at first and apart (verify_pieces.py), because it has to be fetched.

In steps, beside whoever uses the store: what changes meanwhile is left out of the comparison of counts
(`Rows.changed`), and whatever is written meanwhile was checked when it was written.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from blockstore.store.checks.repair import Repair
from blockstore.store.checks.soundness import entry_before, sound_entries
from blockstore.store.references import free_rows
from blockstore.store.remote.arrivals import place_of
from blockstore.store.state.geometry import (
    BLOCK_SHIFT,
    CHECK_SHIFT,
    DUE,
    FIRST_ROW,
    ID_MASK,
    LOST,
    LOST_ENTRY,
    PATCH_BITS,
)
from blockstore.store.state.location import are_patches, size_of
from blockstore.store.steps import NotHere, Outcome, Steps
from blockstore.store.store import Store
from blockstore.store.volume import Volume

RECORDS_A_STEP: Final = 128
"""About a millisecond of decoding."""

ENTRIES_A_STEP: Final = 8192
ROWS_A_STEP: Final = 1 << 14

MAXIMUM_FINDINGS: Final = 1000
"""Findings that are described; further ones are only counted."""


@dataclass
class Finding:
    """`kind`: block (one of a volume cannot be read), record, piece, count, orphan, name. `volume` is its number."""

    kind: str
    text: str
    volume: int | None = None
    offset: int | None = None
    row: int | None = None
    repaired: bool = False


@dataclass
class Verification:
    """What was looked at so far, and found."""

    volumes: int = 0
    blocks: int = 0
    rows: int = 0
    record_bytes: int = 0
    done: int = 0
    total: int = 1
    found: int = 0
    repaired: int = 0
    findings: list[Finding] = field(default_factory=list)

    def add(self, finding: Finding) -> None:
        """Count it, and describe it if there are not too many."""
        self.found += 1
        self.repaired += finding.repaired
        if len(self.findings) < MAXIMUM_FINDINGS:
            self.findings.append(finding)

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def steps(store: Store, result: Verification, *, repair: bool, unreadable: Mapping[int, int] | None = None) -> Steps:
    """Verify all of the store; `result` is complete after the last step. `unreadable` has what verify_pieces.py found:
    rows that are damaged, unless their words are others by now."""
    rows = store.rows
    check = _Check(store, result, repair, unreadable or {})
    result.total = rows.capacity + sum(volume.blocks for volume in store.volumes.values()) + rows.capacity
    rows.changed = np.zeros(rows.capacity, dtype=np.bool_)
    try:
        yield from check.records()
        for volume in list(store.volumes.values()):
            yield from check.entries(volume)
        yield from check.counts()
    finally:
        rows.changed = None


class _Check:
    def __init__(self, store: Store, result: Verification, repair: bool, unreadable: Mapping[int, int]) -> None:
        self._store = store
        self._rows = store.rows
        self._result = result
        self._repair = repair
        self._damaged = np.zeros(store.rows.capacity, dtype=np.bool_)
        self._damaged[[row for row, where in unreadable.items() if store.rows.where.items[row] == where]] = True
        self._counts = np.zeros(store.rows.capacity, dtype=np.int64)
        self._dependents = np.zeros(store.rows.capacity, dtype=np.int64)
        self._seeds = store.domains.seeds()
        self._repairer = Repair(store.rows, store.pool, store.decoder, self._seeds)

    def records(self) -> Steps:
        """Decode everything that is stored."""
        rows = self._rows
        for first in range(FIRST_ROW, len(self._counts), RECORDS_A_STEP):
            end = min(first + RECORDS_A_STEP, len(self._counts))
            self._seeds.update(self._store.domains.seeds())
            for row in (np.flatnonzero(rows.where.array[first:end]) + first).tolist():
                self._result.rows += 1
                self._result.record_bytes += size_of(rows.where.items[row])
                with suppress(NotHere):  # verify_pieces.py has seen it
                    if not self._damaged[row] and not self._repairer.is_whole(row):
                        yield from self._damaged_row(row)
            self._result.done += end - first
            yield Outcome.WENT_ON

    def _damaged_row(self, row: int) -> Steps:
        rows = self._rows
        if self._repair:
            base = rows.reference.items[row]
            if rows.where.items[row] & PATCH_BITS == PATCH_BITS and FIRST_ROW <= base < rows.capacity:
                yield from self._repair_row(base)  # a patch can be no better than its reference
            yield from self._repair_row(row)
        repaired = self._repairer.is_whole(row)
        self._damaged[row] = not repaired
        if not rows.where.items[row]:
            return  # freed meanwhile
        text = f"the record of row {row} does not decode to what was written"
        self._result.add(Finding("record", text, row=row, repaired=repaired))

    def _repair_row(self, row: int) -> Steps:
        if self._rows.where.items[row] and not self._repairer.is_whole(row):
            yield from self._repairer.steps(row)

    def entries(self, volume: Volume) -> Steps:
        """Look at every map entry of a volume."""
        self._result.volumes += 1
        position = 0
        while not volume.deleted and position < volume.blocks:
            end = min(position + ENTRIES_A_STEP, volume.blocks)
            for start, stop in volume.prepared(position, end):
                self._window(volume, start, stop)
            self._result.blocks += end - position
            self._result.done += end - position
            position = end
            yield Outcome.WENT_ON

    def _window(self, volume: Volume, start: int, stop: int) -> None:
        entries = np.asarray(volume.map[start:stop])
        ids = entries & np.uint64(ID_MASK)
        sound = sound_entries(self._store.tables, self._store.pool.places(), entries)
        for place in np.flatnonzero(~sound).tolist():
            self._damaged_entry(volume, start + place)
        known = np.where(ids < len(self._damaged), ids, 0)
        for place in np.flatnonzero(sound & (self._damaged[known] | (ids == LOST))).tolist():
            self._unreadable(volume, start + place, "is lost" if ids[place] == LOST else "cannot be read")
        lost = self._store.pool.arrivals.lost
        for place in np.flatnonzero(ids == DUE).tolist() if lost else ():
            if place_of(int(entries[place])) in lost:
                self._unreadable(volume, start + place, "was to come from another host, which has not got it")
        entries = np.asarray(volume.map[start:stop])  # with what was repaired just now
        ids = (entries & np.uint64(ID_MASK)).astype(np.int64)
        is_row = (ids >= FIRST_ROW) & (ids < len(self._counts))
        matches = (entries[is_row] ^ self._rows.digest.array[ids[is_row]]) < np.uint64(1 << CHECK_SHIFT)
        np.add.at(self._counts, ids[is_row][matches], 1)

    def _damaged_entry(self, volume: Volume, block: int) -> None:
        entry, text = volume.lookup(block), "cannot be found: its map entry, or the row that it points at, is damaged"
        before = None
        if self._repair:
            places = self._store.pool.places()
            before = entry_before(self._store.tables, self._rows, places, entry, volume.domain.index)
            volume.map[block] = LOST_ENTRY if before is None else before
        self._unreadable(volume, block, text, repaired=before is not None)

    def _unreadable(self, volume: Volume, block: int, what: str, *, repaired: bool = False) -> None:
        offset = block << BLOCK_SHIFT
        self._result.add(Finding("block", f"the block at {offset} {what}", volume.number, offset, None, repaired))

    def counts(self) -> Steps:
        """Compare the counts of all rows that did not change meanwhile with what the maps and the patches say."""
        rows = self._rows
        for first in range(FIRST_ROW, len(self._counts), ROWS_A_STEP):
            end = min(first + ROWS_A_STEP, len(self._counts))
            patched = np.flatnonzero(are_patches(rows.where.array[first:end])) + first
            base = rows.reference.array[patched].astype(np.int64)
            np.add.at(self._dependents, base[base < len(self._dependents)], 1)
            yield Outcome.WENT_ON
        for first in range(FIRST_ROW, len(self._counts), ROWS_A_STEP):
            end = min(first + ROWS_A_STEP, len(self._counts))
            self._compare(first, end)
            self._result.done += end - first
            yield Outcome.WENT_ON

    def _compare(self, first: int, end: int) -> None:
        rows = self._rows
        assert rows.changed is not None
        still, live = ~rows.changed[first:end], rows.where.array[first:end] != 0
        counts, dependents = self._counts[first:end], self._dependents[first:end]
        off = still & (rows.count.array[first:end] != counts)
        off |= still & (rows.dependents.array[first:end] != dependents)
        for row in (np.flatnonzero(off) + first).tolist():
            text = (
                f"row {row} counts {rows.count.items[row]} map entries and {rows.dependents.items[row]} patches; "
                f"there are {self._counts[row]} and {self._dependents[row]}"
            )
            if self._repair:
                rows.count.items[row], rows.dependents.items[row] = int(self._counts[row]), int(self._dependents[row])
            self._result.add(Finding("count", text, row=row, repaired=self._repair))
        orphans = np.flatnonzero(still & live & (counts == 0) & (dependents == 0)) + first
        for row in orphans.tolist():
            text = f"row {row} is stored, and nothing points at it"
            self._result.add(Finding("orphan", text, row=row, repaired=self._repair))
        if self._repair and self._store.is_adopted:  # else they end when the state is opened to be used
            self._free(orphans)

    def _free(self, orphans: npt.NDArray[np.int64]) -> None:
        rows = self._rows
        patched = orphans[are_patches(rows.where.array[orphans])]
        base = rows.reference.array[patched].astype(np.int64)
        free_rows(rows, self._store.pool, orphans)
        base = base[(base >= FIRST_ROW) & (base < rows.capacity)]
        np.subtract.at(rows.dependents.array, base, 1)
        rows.mark_changed(base)
