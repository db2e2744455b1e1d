"""Who points at a row, and what happens when nobody does: the only place where counts change in bulk.

A row lives while a map entry (`count`) or a patch (`dependents`) points at it. Map entries are changed by the
caller *before* `release`, so that a process killed in between leaves a row too many, never one too few.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from blockstore.store.geometry import ENCODING_MASK, FIRST_ROW, PATCHED
from blockstore.store.pool import Pool
from blockstore.store.rows import Rows

_PATCHED = np.uint64(PATCHED)
_ENCODING = np.uint64(ENCODING_MASK)


def acquire(rows: Rows, ids: npt.NDArray[np.uint32]) -> None:
    """One more map entry points at each of these ids (an id may be given many times; HOLE and ZERO do not count)."""
    np.add.at(rows.count.array, ids[ids >= FIRST_ROW], 1)


def release(rows: Rows, pool: Pool, ids: npt.NDArray[np.uint32]) -> None:
    """One map entry less points at each of these ids. Rows that nothing points at are freed, and then, if these
    were the last patches against them, their references."""
    ids = ids[ids >= FIRST_ROW]
    if not len(ids):
        return
    count = rows.count.array
    np.subtract.at(count, ids, 1)
    dead = ids[(count[ids] == 0) & (rows.dependents.array[ids] == 0)]
    if not len(dead):
        return
    dead = np.unique(dead)
    patched = dead[(rows.where.array[dead] & _ENCODING) == _PATCHED]
    references = rows.reference.array[patched]
    _free(rows, pool, dead)
    if len(references):
        np.subtract.at(rows.dependents.array, references, 1)
        references = np.unique(references)
        unused = (count[references] == 0) & (rows.dependents.array[references] == 0)
        _free(rows, pool, references[unused])  # a reference is never a patch itself: it ends here


def _free(rows: Rows, pool: Pool, dead: npt.NDArray[np.uint32]) -> None:
    if not len(dead):
        return
    where = rows.where.array[dead]
    rows.give_back(dead)
    pool.forget(where)
