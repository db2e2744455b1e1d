"""Who points at a row, and what happens when nobody does.

A row lives while a map entry (`count`) or a patch (`dependents`) points at it. Counts change in the plane alone
(commit.pyx, ranges.pyx): map entries change *before* those of their old rows go down, so that a process killed in
between leaves a row too many, never one too few.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable

from blockstore.plane.blocks.commit import Commit
from blockstore.store.state.geometry import ENCODING_MASK, FREE, PAGED, PATCH_BITS
from blockstore.store.state.pool import Pool
from blockstore.store.state.rows import MAXIMUM_DEPENDENTS, Rows


def release_references(rows: Rows, pool: Pool, references: Iterable[int]) -> None:
    """One patch less is against each of these rows (a row may be given many times)."""
    _commit(rows, pool).release_references(array("I", references))
    pool.take_back()


def free_rows(rows: Rows, pool: Pool, dead: Iterable[int]) -> None:
    """Nothing points at these rows any more."""
    _commit(rows, pool).free(array("I", dead))
    pool.take_back()


def _commit(rows: Rows, pool: Pool) -> Commit:
    return Commit(rows._tables, rows.free, rows.changed_rows, pool.log)


def may_be_reference(rows: Rows, row: int, domain: int) -> bool:
    """May new patches of the domain be against this row? plane/tables/similarity_index.pxd asks the same."""
    where = rows.where.items[row]
    return bool(
        where & ENCODING_MASK != FREE
        and where & PATCH_BITS != PATCH_BITS
        and not where & PAGED  # no write waits for a tier
        and rows.domain.items[row] == domain
        and rows.dependents.items[row] < MAXIMUM_DEPENDENTS
        and rows.count.items[row]  # nothing new may keep a row that only patches need
    )
