"""Who points at a row, and what happens when nobody does: the only place where counts change in bulk.

A row lives while a map entry (`count`) or a patch (`dependents`) points at it. Map entries are changed by the
caller *before* `release`, so that a process killed in between leaves a row too many, never one too few.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from blockstore.store.geometry import CHECK_SHIFT, ENCODING_MASK, FIRST_ROW, FREE, PAGED, PATCH_BITS
from blockstore.store.pool import Pool
from blockstore.store.rows import MAXIMUM_DEPENDENTS, Rows
from blockstore.store.volume import ids_of

_ONE = np.uint32(1)
_PATCH = np.uint64(PATCH_BITS)
_PAGED = np.uint64(PAGED)
_CHECK_FLOOR = np.uint64(1 << CHECK_SHIFT)


def rows_of(rows: Rows, entries: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    """The row of each map entry that is one of a row, and undamaged; the others (HOLE, ZERO, LOST) are left out.

    An entry whose check is not that of its row does not count: it points nowhere, whatever its id says.
    """
    ids = ids_of(entries)
    is_row = (ids >= FIRST_ROW) & (ids < rows.capacity)
    if not is_row.all():
        ids, entries = ids[is_row], entries[is_row]
    matches = (entries ^ rows.digest.array[ids]) < _CHECK_FLOOR
    return ids if matches.all() else ids[matches]


def acquire(rows: Rows, ids: npt.NDArray[np.int64]) -> None:
    """One more map entry points at each of these rows (a row may be given many times)."""
    count = rows.count.array
    if _are_different(ids):
        count[ids] += _ONE
    else:
        np.add.at(count, ids, _ONE)
    rows.mark_changed(ids)


def release(rows: Rows, pool: Pool, ids: npt.NDArray[np.int64]) -> None:
    """One map entry less points at each of these rows. Rows that nothing points at are freed, and then, if these
    were the last patches against them, their references."""
    if not len(ids):
        return
    rows.mark_changed(ids)
    count = rows.count.array
    if _are_different(ids):
        count[ids] -= _ONE
    else:
        np.subtract.at(count, ids, _ONE)
    dead = ids[(count[ids] == 0) & (rows.dependents.array[ids] == 0)]
    if not len(dead):
        return
    dead = np.unique(dead)
    patched = dead[rows.where.array[dead] & _PATCH == _PATCH]
    references = rows.reference.array[patched].astype(np.int64)
    free_rows(rows, pool, dead)
    if len(references):
        release_references(rows, pool, references)


def release_references(rows: Rows, pool: Pool, references: npt.NDArray[np.int64]) -> None:
    """One patch less is against each of these rows (a row may be given many times)."""
    references = references[references < rows.capacity]  # of a damaged row it may be anything
    rows.mark_changed(references)
    np.subtract.at(rows.dependents.array, references, 1)
    references = np.unique(references)
    unused = (rows.count.array[references] == 0) & (rows.dependents.array[references] == 0)
    free_rows(rows, pool, references[unused])  # a reference is never a patch itself: it ends here


def may_be_references(rows: Rows, ids: npt.NDArray[np.uint32], domain: int) -> npt.NDArray[np.bool_]:
    """May new patches of the domain be against these rows?"""
    where = rows.where.array[ids]
    return (  # type: ignore[no-any-return]
        (where & np.uint64(ENCODING_MASK) != FREE)
        & (where & _PATCH != _PATCH)
        & (where < _PAGED)  # no write waits for a tier
        & (rows.domain.array[ids] == domain)
        & (rows.dependents.array[ids] < MAXIMUM_DEPENDENTS)
        & (rows.count.array[ids] != 0)  # nothing new may keep a row that only patches need
    )


def may_be_reference(rows: Rows, row: int, domain: int) -> bool:
    """The same of one row, without arrays."""
    where = rows.where.items[row]
    return bool(
        where & ENCODING_MASK != FREE
        and where & PATCH_BITS != PATCH_BITS
        and not where & PAGED
        and rows.domain.items[row] == domain
        and rows.dependents.items[row] < MAXIMUM_DEPENDENTS
        and rows.count.items[row]
    )


def _are_different(ids: npt.NDArray[np.int64]) -> bool:
    """Is each row given once, as far as that can be seen at once? So it is where memory was written in order, and then
    all counts can be changed together, which takes a tenth of what ufunc.at takes."""
    return bool((ids[1:] > ids[:-1]).all())


def free_rows(rows: Rows, pool: Pool, dead: npt.NDArray[np.int64]) -> None:
    """Nothing points at these rows any more."""
    if not len(dead):
        return
    where = rows.where.array[dead]
    rows.give_back(dead)
    pool.forget(where)
