"""Who points at a row, and what happens when nobody does: the only place where counts change in bulk.

A row lives while a map entry (`count`) or a patch (`dependents`) points at it. Map entries are changed by the
caller *before* `release`, so that a process killed in between leaves a row too many, never one too few.
"""

from __future__ import annotations

from array import array

import numpy as np
import numpy.typing as npt

from blockstore.plane.blocks.commit import Commit
from blockstore.store.state.geometry import CHECK_SHIFT, FIRST_ROW
from blockstore.store.state.pool import Pool
from blockstore.store.state.rows import Rows
from blockstore.store.volume import ids_of

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


def release(commit: Commit, pool: Pool, entries: npt.NDArray[np.uint64]) -> None:
    """One map entry less points at the row of each of these. Rows that nothing points at are freed, and then, if these
    were the last patches against them, their references."""
    commit.release(entries)
    pool.take_back()


def free_rows(rows: Rows, pool: Pool, dead: npt.NDArray[np.int64] | array[int]) -> None:
    """Nothing points at these rows any more."""
    if not len(dead):
        return
    dead = np.asarray(dead)
    where = rows.where.array[dead]
    rows.give_back(dead)
    pool.forget(where)
