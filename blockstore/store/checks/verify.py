"""Verification: every record decoded, every map entry and every count looked at; and repair of what can be.

What is in the tier is looked at first and apart (verify_pieces.py), because it has to be fetched.

In steps, beside whoever uses the store: what changes meanwhile is left out of the comparison of counts
(`Rows.changed`), and whatever is written meanwhile was checked when it was written.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from blockstore.plane.tables.cross_count import (
    DAMAGED_ENTRY,
    DAMAGED_ROW,
    DUE_BLOCK,
    LOST_BLOCK,
    ORPHAN,
    OTHER_COUNTS,
    compare_counts,
    count_patches,
    count_pointers,
    judge_blocks,
)
from blockstore.store.checks.repair import Repair
from blockstore.store.checks.soundness import entry_before
from blockstore.store.remote.arrivals import place_of
from blockstore.store.state.geometry import (
    BLOCK_SHIFT,
    FIRST_ROW,
    LOST_ENTRY,
    PATCH_BITS,
)
from blockstore.store.state.location import size_of
from blockstore.store.state.untouched import untouched
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
    """`kind`: block (one of a volume cannot be read), record, dictionary, piece, count, orphan, name. `volume` is
    its number."""

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
    rows.changed = bytearray(rows.capacity)
    try:
        for text, is_repaired in store.dictionaries.problems(repair=repair):
            result.add(Finding("dictionary", text, repaired=is_repaired))
        yield Outcome.WENT_ON
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
        self._damaged = bytearray(store.rows.capacity)
        for row, where in unreadable.items():
            self._damaged[row] = store.rows.where.items[row] == where
        self._counts = _zeros(store.rows.capacity)
        self._dependents = _zeros(store.rows.capacity)
        self._seeds = store.domains.seeds()
        self._repairer = Repair(store.rows, store.pool, store.decoder, self._seeds)

    def records(self) -> Steps:
        """Decode everything that is stored."""
        rows = self._rows
        for first in range(FIRST_ROW, len(self._counts), RECORDS_A_STEP):
            end = min(first + RECORDS_A_STEP, len(self._counts))
            self._seeds.update(self._store.domains.seeds())
            for row in range(first, end):
                where = rows.where.items[row]
                if not where:
                    continue
                self._result.rows += 1
                self._result.record_bytes += size_of(where)
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
            self._window(volume, position, end)
            self._result.blocks += end - position
            self._result.done += end - position
            position = end
            yield Outcome.WENT_ON

    def _window(self, volume: Volume, first: int, end: int) -> None:
        tables, lost = self._store.tables, self._store.pool.arrivals.lost
        verdicts = bytearray(end - first)
        found = judge_blocks(tables, self._store.pool.places(), volume.block_map, first, self._damaged, verdicts)
        if found or lost:
            for block, verdict in enumerate(verdicts, first):
                if verdict == DAMAGED_ENTRY:
                    self._damaged_entry(volume, block)
                elif verdict == DAMAGED_ROW:
                    self._unreadable(volume, block, "cannot be read")
                elif verdict == LOST_BLOCK:
                    self._unreadable(volume, block, "is lost")
                elif verdict == DUE_BLOCK and place_of(volume.lookup(block)) in lost:
                    self._unreadable(volume, block, "was to come from another host, which has not got it")
        count_pointers(tables, volume.block_map, first, end, self._counts)  # with those that were repaired just now

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
        for first in range(FIRST_ROW, len(self._counts), ROWS_A_STEP):
            end = min(first + ROWS_A_STEP, len(self._counts))
            count_patches(self._store.tables, first, end, self._dependents)
            yield Outcome.WENT_ON
        for first in range(FIRST_ROW, len(self._counts), ROWS_A_STEP):
            end = min(first + ROWS_A_STEP, len(self._counts))
            self._compare(first, end)
            self._result.done += end - first
            yield Outcome.WENT_ON

    def _compare(self, first: int, end: int) -> None:
        changed = self._rows.changed
        assert changed is not None
        verdicts, orphans = bytearray(end - first), array("q")
        if not compare_counts(self._store.tables, first, self._counts, self._dependents, changed, verdicts):
            return
        for row, verdict in enumerate(verdicts, first):
            if verdict & OTHER_COUNTS:
                self._other_counts(row)
            if verdict & ORPHAN:
                text = f"row {row} is stored, and nothing points at it"
                self._result.add(Finding("orphan", text, row=row, repaired=self._repair))
                orphans.append(row)
        if orphans and self._repair and self._store.is_adopted:  # else they end when the state is opened to be used
            self._free(orphans)

    def _other_counts(self, row: int) -> None:
        rows = self._rows
        text = (
            f"row {row} counts {rows.count.items[row]} map entries and {rows.dependents.items[row]} patches; "
            f"there are {self._counts[row]} and {self._dependents[row]}"
        )
        if self._repair:
            rows.count.items[row], rows.dependents.items[row] = self._counts[row], self._dependents[row]
        self._result.add(Finding("count", text, row=row, repaired=self._repair))

    def _free(self, orphans: array[int]) -> None:
        rows, changed = self._rows, self._rows.changed
        assert changed is not None
        never_stored = set(rows.free.numbers())
        for row in orphans:
            if row in never_stored or row >= rows.next_row:  # a damaged word, of which nothing was ever counted
                rows.where.items[row] = 0
        orphans = array("q", [row for row in orphans if rows.where.items[row]])
        bases = [rows.reference.items[row] for row in orphans if rows.where.items[row] & PATCH_BITS == PATCH_BITS]
        words = array("Q", [rows.where.items[row] for row in orphans])
        rows.give_back(orphans)
        self._store.pool.forget(words)
        for base in bases:
            if FIRST_ROW <= base < len(changed) and rows.dependents.items[base]:
                rows.dependents.items[base] -= 1
                changed[base] = True


def _zeros(count: int) -> memoryview:
    """So many numbers of 32 bits, which take memory page by page as they are used, and give it back at the end."""
    return memoryview(untouched(4 * count)).cast("I")[:count]
