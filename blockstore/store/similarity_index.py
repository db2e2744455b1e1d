"""The similarity index: feature -> a recent row that had it. A table of hints, allowed to forget and to be wrong.

One slot a feature, the last writer stays; 8 bits that depend on the feature and on the row's content are kept as a tag,
so that 1 of 256 foreign features passes, and 1 of 256 rows that have become another content's. A hint is only used if
its row is live, in the same domain and no patch itself; and what it is worth is decided by making the patch. So nothing
here needs repair after a crash, and nothing is ever deleted.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from blockstore.store.features import NO_FEATURE
from blockstore.store.home import Home
from blockstore.store.references import may_be_references
from blockstore.store.rows import Rows
from blockstore.store.shared_array import SharedArray

SLOTS_PER_ROW: Final = 2
"""The least number of slots for a row that has features. There are four, so some older hints are forgotten; one
slot costs 5 bytes, and a table that just doubled has twice as many: 20 bytes a row at most."""

_FIRST_SLOTS: Final = 8192
_TAG_MIX: Final = np.uint32(0x9E37_79B1)
_TAG_SHIFT: Final = np.uint32(24)


class SimilarityIndex:
    """Slot `feature % slots` has the last row with the feature, and 8 bits of the feature. Written by ingest."""

    def __init__(self, home: Home) -> None:
        self._rows_of = SharedArray(home, "similarity-rows", "I", _FIRST_SLOTS)
        self._tags = SharedArray(home, "similarity-tags", "B", self._rows_of.capacity)
        self._slots = min(self._rows_of.capacity, self._tags.capacity)
        self._entered = 0

    @property
    def size_bytes(self) -> int:
        return self._rows_of.size_bytes + self._tags.size_bytes

    def reserve(self, entries: int, live_rows: int) -> None:
        """Keep SLOTS_PER_ROW slots for a row when so many more are entered. Raises OutOfRoom.

        The table doubles: a feature's slot is then either the old one or its copy in the new half, so no hint is lost.
        """
        # Rows that are freed are not counted down, but there cannot be more with features than there are.
        rows = min(self._entered + entries, live_rows + entries)
        while rows * SLOTS_PER_ROW > self._slots:
            slots = self._slots
            self._rows_of.grow(2 * slots)
            self._tags.grow(2 * slots)
            self._rows_of.array[slots : 2 * slots] = self._rows_of.array[:slots]
            self._tags.array[slots : 2 * slots] = self._tags.array[:slots]
            self._slots = 2 * slots

    def candidates(
        self, features: npt.NDArray[np.uint32], rows: Rows, domain: int, own: npt.NDArray[np.uint32] | None = None
    ) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
        """For each line of features the row that most of them hint at (0 where none does), and how many do. With `own`,
        those are the rows that have these features, and hints at them do not count."""
        slots = features % np.uint32(self._slots)
        row = self._rows_of.array.take(slots)
        row[(self._tags.array.take(slots) != _tags(features, row, rows)) | (features == NO_FEATURE)] = 0
        if own is not None:
            row[row == own[:, None]] = 0
        best, hints = np.zeros(len(row), dtype=np.uint32), np.zeros(len(row), dtype=np.int64)
        hinted = np.flatnonzero(row.any(axis=1))
        if len(hinted):
            row = row[hinted]
            votes = (row[:, :, None] == row[:, None, :]).sum(axis=2)
            votes[row == 0] = 0
            chosen = row[np.arange(len(row)), votes.argmax(axis=1)]
            chosen[~may_be_references(rows, chosen, domain)] = 0
            best[hinted], hints[hinted] = chosen, votes.max(axis=1)
        return best, hints

    def enter(self, features: npt.NDArray[np.uint32], row: npt.NDArray[np.uint32], rows: Rows) -> None:
        """These rows, whose digests are set, have these features from now on."""
        slots = features % np.uint32(self._slots)
        self._rows_of.array[slots] = row[:, None]
        self._tags.array[slots] = _tags(features, row[:, None], rows)
        self._entered += len(row)

    def close(self) -> None:
        self._rows_of.close()
        self._tags.close()


def _tags(features: npt.NDArray[np.uint32], row: npt.NDArray[np.uint32], rows: Rows) -> npt.NDArray[np.uint8]:
    """8 bits that depend on all of a feature (features are maxima: their own upper bits are mostly ones), and on the
    digest of the row that has it."""
    of_content = rows.digest.array.take(row, mode="clip").astype(np.uint8)
    return (features * _TAG_MIX >> _TAG_SHIFT).astype(np.uint8) ^ of_content
