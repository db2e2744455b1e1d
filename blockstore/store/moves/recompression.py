"""Recompression of idle pages, as a whole: the passes of densify.py, in short visits to the store.

`store_lock` is held for each visit, of some 0.1 ms, and never while blocks are encoded, which takes most of the time
and needs the interpreter's lock as little. All methods are for one thread.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Final, NamedTuple

from blockstore.store.moves.densify import Cold, Densify, Gain
from blockstore.store.moves.upkeep import Upkeep

HARD_BLOCKS: Final = 1
"""Encoded in one step when they are encoded hard, which takes up to 0.5 ms for each."""


class Recompressed(NamedTuple):
    """Since the store was opened: blocks that were tried, those of them that got smaller records, and by how much."""

    tried_blocks: int
    replaced_blocks: int
    saved_bytes: int


class Recompression:
    """Of one store."""

    def __init__(self, densify: Densify, upkeep: Upkeep) -> None:
        self._densify = densify
        self._upkeep = upkeep
        self._picked: list[Cold] = []
        self._gains: list[Gain] = []

    @property
    def done(self) -> Recompressed:
        """What has come of it."""
        return Recompressed(self._densify.tried, self._densify.replaced, self._densify.saved_bytes)

    @property
    def looks(self) -> int:
        """How often a block was tried, at its first look or its second."""
        return self._densify.tried + self._densify.hard_tried

    def begin(self, now_s: float, cold_after_s: float) -> bool:
        """Returns whether a pass is under way, or there is a segment that has been cold for `cold_after_s`, to begin
        one for. To be asked at the store, every few seconds."""
        return self._densify.begin(now_s, cold_after_s)

    def begin_all(self, *, hard: bool = False) -> None:
        """Begins a pass over everything, however young."""
        self._densify.begin_all(hard=hard)

    def step(self, store_lock: AbstractContextManager[object]) -> bool | None:
        """Encodes the blocks that were picked together, or one of them where they are encoded hard; replaces them when
        all are encoded. Returns None at the end of a pass, False without room."""
        if not self._picked:
            with store_lock:
                picked = self._densify.pick()
            if picked is None:
                return None
            described = self._densify.describe(picked)
            if described:
                with store_lock:
                    self._densify.look_around(picked, described)
            self._picked = picked
        if self._picked:
            count = HARD_BLOCKS if self._densify.is_hard else len(self._picked)
            self._gains += self._densify.encode(self._picked[-count:])
            del self._picked[-count:]
        if self._picked or not self._gains:
            return True
        gains, self._gains = self._gains, []
        with store_lock:
            went_on = self._densify.replace(gains)
        with store_lock:
            # Segments that were emptied just now cost next to nothing to compact, long before there is as much garbage
            # as others wait for.
            if self._upkeep.due(quiet=True):
                self._upkeep.step()
        return went_on
