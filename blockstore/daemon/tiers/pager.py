"""The pager: a thread that keeps some of the pool free, by moving what is coldest into the tier.

It is what makes room for writes, so that `--background-cpu` does not bind it; but most of its time goes by at the tier,
and each of its visits to the store is short (store/moves/mover.py). What is read often comes back when there is room.
It alone puts and deletes pieces. While the tier is away it asks again, less and less often; nothing is lost, and the
pool fills up.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import Any, Final

from blockstore.daemon.lane.waits import BACKGROUND_FIRST_RETRY_S, BACKGROUND_LONGEST_RETRY_S, TierRetry
from blockstore.daemon.tiers.fetches import END_S, Fetches
from blockstore.daemon.tiers.tier_health import TierHealth
from blockstore.errors import InputError
from blockstore.plane.sync.lock import StoreLock
from blockstore.store.state.geometry import SEGMENT_BYTES
from blockstore.store.store import Store
from blockstore.store.tiers import Tier, TierAway

log = logging.getLogger(__name__)

LOOK_S: Final = 0.1
"""How often the pool is looked at: writes at full speed fill 20 MiB in that time."""

START_SHARE: Final = 0.10
STOP_SHARE: Final = 0.15
"""Of the pool's limit: below the first one is free, and paging out begins; with the second one it stops."""

START_SEGMENTS: Final = 2
STOP_SEGMENTS: Final = 3
"""At least; for small pools."""

BACK_SHARE: Final = 0.25
"""Pieces come back only while more than this is free, so that they do not go out again at once."""

WARM_RECORDS: Final = 64
"""Of a piece, read from the tier within WARM_S: as many as a VM that works again in what it had left asks for."""

WARM_S: Final = 3.0
BACK_PIECES: Final = 8
"""That come back from one look to the next, at most."""

REWRITE_S: Final = 1.0
"""How often sparse pieces are looked for."""

SWEEP_PIECES: Final = 64
"""Deleted from one look to the next: room in the pool is more urgent."""


class Pager:
    """Of one daemon and its tier."""

    def __init__(self, store: Store, store_lock: StoreLock, tier: Tier, fetches: Fetches) -> None:
        self._tier = tier
        self._fetches = fetches
        self._mover = store.mover(tier, store_lock)
        self._is_reconciled = False
        self._warm_at_s = self._rewrite_at_s = 0.0
        self._ends = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pager", daemon=True)
        self.health = TierHealth(tier.describe(), "nothing more goes there, and the pool may become full")

    @property
    def makes_room(self) -> bool:
        """Is whoever waits for room going to get some?"""
        return not self.health.failing_since and not self._ends.is_set()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """The mount has ended. A thread that hangs in the tier is left behind after a while."""
        self._ends.set()
        self._thread.join(END_S)
        if self._thread.is_alive() or not self._is_reconciled:
            return
        ends_s = time.monotonic() + END_S
        try:
            while self._mover.has_doomed and time.monotonic() < ends_s:  # of files that were deleted at the end
                self._mover.sweep(SWEEP_PIECES)
        except TierAway as error:
            log.warning("%s; it is swept at the next mount", error)

    def figures(self) -> dict[str, Any]:
        """What `status` tells. To be asked with the store lock."""
        return self._mover.figures()._asdict()

    def _run(self) -> None:
        retry = TierRetry(BACKGROUND_FIRST_RETRY_S, BACKGROUND_LONGEST_RETRY_S)
        while not self._ends.is_set():
            pause_s = LOOK_S
            try:
                self._work()
                self.health.answered()
                retry.answered()
            except (TierAway, InputError) as error:
                self.health.failed(error)
                self._find_out_whether_it_is_read()
                pause_s = retry.pause_s()
            except Exception as error:
                log.exception("the pager")
                self.health.failed(error)
                pause_s = BACKGROUND_LONGEST_RETRY_S
            self._ends.wait(pause_s)

    def _work(self) -> None:
        if self._fetches.health.failing_since and not self._fetches.waiting:
            self._probe()
        if not self._is_reconciled:
            self._reconcile()
        self._mover.sweep(SWEEP_PIECES)
        if self._mover.free_bytes() < self._mark(START_SHARE, START_SEGMENTS):
            self._make_room()
        now_s = time.monotonic()
        if now_s >= self._rewrite_at_s:
            self._rewrite_at_s = now_s + REWRITE_S
            self._mover.rewrite()
        if now_s >= self._warm_at_s:
            self._warm_at_s = now_s + WARM_S
            self._bring_back()

    def _find_out_whether_it_is_read(self) -> None:
        """Asks for one byte after a failure: a tier that is full still gives what is in it, and one that is away keeps
        VMs waiting although none of them needs it at the moment."""
        try:
            self._mover.read_a_byte()
        except TierAway as error:
            self._fetches.health.failed(error)

    def _probe(self) -> None:
        """Somebody met a tier that was away, and has not waited for it. Nobody else would find out that it is back."""
        if not self._mover.read_a_byte():
            self._tier.check()
        self._fetches.health.answered()

    def _reconcile(self) -> None:
        if not self._mover.has_pieces:
            self._tier.check()  # it may have been away at the start; with pieces, what is there now is all that counts
        lost = self._mover.reconcile()
        if lost:
            place = self._tier.describe()
            log.critical("%s has lost %d pieces; `blockstore verify` tells what was in them", place, lost)
        self._is_reconciled = True

    def _make_room(self) -> None:
        """Until enough is free, or nothing is left that could go."""
        while not self._ends.is_set():
            lack_bytes = self._mark(STOP_SHARE, STOP_SEGMENTS) - self._mover.free_bytes()
            if lack_bytes <= 0 or not self._mover.out(-(-lack_bytes // SEGMENT_BYTES)):
                return

    def _bring_back(self) -> None:
        """The pieces that were read most, while there is much room."""
        for piece in self._mover.warm(BACK_PIECES, WARM_RECORDS):
            if self._mover.free_bytes() < self._mark(BACK_SHARE, 2 * STOP_SEGMENTS):
                return
            self._mover.back(piece)

    def _mark(self, share: float, segments: int) -> int:
        return max(int(share * self._mover.limit_bytes), segments * SEGMENT_BYTES)
