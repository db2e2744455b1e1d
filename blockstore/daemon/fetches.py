"""Fetching what is in the tier for who waits for it: READs that the lane could not answer, and jobs.

A few threads, because each is at the tier most of the time. A READ that has got its records is decoded at the door and
answered here, as the lane would; an answer is one write(2), for which no lock is needed. Nobody gets an error because
the tier is away: it is asked again, less and less often, until it answers. Those that are not answered when the daemon
dies are asked anew by the kernel.

How many can wait is limited by who asks: a thread of a VM waits for one fault, the kernel for some read-ahead
(relay.py); each takes a few hundred bytes here.
"""

from __future__ import annotations

import errno
import heapq
import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Final

from blockstore.daemon import fuse_abi as abi
from blockstore.daemon.door import Door
from blockstore.daemon.latency import Latency
from blockstore.daemon.tier_health import TierHealth
from blockstore.errors import CorruptBlock
from blockstore.store.decode import NotHere
from blockstore.store.fetch import Blocks, Fetched, Want, keep, missing, read
from blockstore.store.geometry import BLOCK_BYTES
from blockstore.store.store import Store, blocks_of
from blockstore.store.tiers import Tier, TierAway

log = logging.getLogger(__name__)

FETCHERS: Final = 4
"""Threads. The records of one fault are one read of a disk, or one round trip; four of them keep either busy."""

FIRST_RETRY_S: Final = 0.05
LONGEST_RETRY_S: Final = 2.0
"""Before a tier that was away is asked again for the same; doubled each time."""

END_S: Final = 15.0
"""How long the threads may take to end; longer than a tier may take to be away (WAIT_S)."""

Answer = Callable[..., None]


@dataclass(slots=True, eq=False)
class Ticket:
    """Of a job that waits for blocks."""

    blocks: Blocks
    done: bool = False
    given_up: bool = False
    retry_s: float = FIRST_RETRY_S


@dataclass(slots=True, eq=False)
class _Read:
    """A READ of the kernel."""

    unique: int
    inode: int
    offset: int
    length: int
    answer: Answer
    pieces: list[bytes | memoryview] | None = None
    given_up: bool = False
    retry_s: float = FIRST_RETRY_S
    started_ns: int = field(default_factory=time.perf_counter_ns)


class Fetches:
    """Of one daemon and its tier."""

    def __init__(self, store: Store, door: Door, tier: Tier) -> None:
        self._store = store
        self._door = door
        self._tier = tier
        self._changed = threading.Condition(threading.Lock())
        self._ready: deque[_Read | Ticket] = deque()
        self._later: list[tuple[float, int, _Read | Ticket]] = []  # a heap
        self._order = count()
        self._reads: dict[int, _Read] = {}
        self._serving: set[_Read | Ticket] = set()
        self._ends = False
        self._threads: list[threading.Thread] = []
        self.health = TierHealth(tier.describe(), "VMs that need what is in it wait")
        self.latency = Latency()
        """Of READs that needed the tier."""
        self.corrupt_reads = 0

    @property
    def waiting(self) -> int:
        """READs that wait for the tier."""
        return len(self._reads)

    def start(self) -> None:
        """Begin to serve."""
        for number in range(FETCHERS):
            thread = threading.Thread(target=self._run, name=f"fetcher {number}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def stop(self) -> None:
        """Nobody asks any more. Threads that hang in the tier are left behind after a while."""
        with self._changed:
            self._ends = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join(END_S)

    def read(self, unique: int, inode: int, offset: int, length: int, answer: Answer) -> None:
        """Answer this READ when its records are here."""
        task = _Read(unique, inode, offset, length, answer)
        with self._changed:
            self._reads[unique] = task
            self._ready.append(task)
            self._changed.notify()

    def ask_for(self, blocks: Blocks) -> Ticket:
        """Have the records of these blocks at hand; the ticket is `done` then."""
        ticket = Ticket(blocks)
        with self._changed:
            self._ready.append(ticket)
            self._changed.notify()
        return ticket

    def fetch(self, blocks: Blocks) -> None:
        """The same, now, by the caller's thread, which is not at the door. Raises TierAway."""
        try:
            self._attempt(lambda: self._missing(blocks))
        except TierAway as error:
            self.health.failed(error)
            raise
        self.health.answered()

    def interrupt(self, unique: int) -> bool:
        """Whoever waits for this READ has got a signal. Is it one of ours?"""
        with self._changed:
            task = self._reads.get(unique)
            if task is None:
                return False
            task.given_up = True
            if task in self._serving:
                return True  # whoever serves it answers, one way or the other
            del self._reads[unique]
        self._fail(task, errno.EINTR)
        return True

    def _run(self) -> None:
        while (task := self._take()) is not None:
            try:
                again = not self._serve(task)
            except Exception:
                log.exception("fetching from the tier")
                again = False
                if isinstance(task, _Read):
                    self._fail(task, errno.EIO)
                else:
                    task.done = True  # what is wrong comes up when the job goes on
            self._leave(task, again=again)

    def _leave(self, task: _Read | Ticket, *, again: bool) -> None:
        with self._changed:
            self._serving.discard(task)
            if again and not task.given_up:
                heapq.heappush(self._later, (time.monotonic() + task.retry_s, next(self._order), task))
                task.retry_s = min(2 * task.retry_s, LONGEST_RETRY_S)
                self._changed.notify()  # others may wait for longer than that
                return
            if isinstance(task, _Read):
                del self._reads[task.unique]
                self.latency.observe(time.perf_counter_ns() - task.started_ns)
        if again and isinstance(task, _Read):
            self._fail(task, errno.EINTR)

    def _take(self) -> _Read | Ticket | None:
        """The next one to be served; None at the end."""
        with self._changed:
            while not self._ends:
                now_s = time.monotonic()
                if self._later and self._later[0][0] <= now_s:
                    task = heapq.heappop(self._later)[2]
                elif self._ready:
                    task = self._ready.popleft()
                else:
                    self._changed.wait(self._later[0][0] - now_s if self._later else None)
                    continue
                if task.given_up:
                    continue
                self._serving.add(task)
                return task
            return None

    def _serve(self, task: _Read | Ticket) -> bool:
        """Fetch and answer; False when the tier is away."""
        try:
            if isinstance(task, Ticket):
                self._attempt(lambda: self._missing(task.blocks))
                task.done = True
            else:
                self._attempt(lambda: self._decode(task))
        except TierAway as error:
            self.health.failed(error)
            return False
        except CorruptBlock as error:
            self.health.answered()
            self.corrupt_reads += 1
            assert isinstance(task, _Read)
            log.error("reading file %d at %d: %s", task.inode, task.offset, error)
            self._fail(task, errno.EIO)
            return True
        self.health.answered()
        if isinstance(task, _Read):
            assert task.pieces is not None
            total = abi.OUT_HEADER.size + sum(map(len, task.pieces))
            task.answer(abi.OUT_HEADER.pack(total, 0, task.unique), *task.pieces)
        return True

    def _attempt(self, visit: Callable[[], list[Want]]) -> None:
        """Visit the store until it wants nothing more, and fetch in between. Raises TierAway."""
        fetched = Fetched([], [])
        while True:
            with self._door:
                keep(self._store.decoder, self._store.pool.pieces, fetched)
                wants = visit()
            if not wants:
                return
            fetched = read(self._tier, wants)

    def _missing(self, blocks: Blocks) -> list[Want]:
        if blocks.volume.deleted:
            return []
        return missing(self._store.rows, self._store.decoder.cache, blocks)

    def _decode(self, task: _Read) -> list[Want]:
        volume = self._store.volumes[task.inode]
        try:
            task.pieces = self._store.read(volume, task.offset, task.length)
        except NotHere:
            return self._missing(blocks_of(volume, task.offset, task.length))
        if task.length <= BLOCK_BYTES:
            volume.refaults += 1
        else:
            volume.count_range(task.offset, task.length)
        return []

    def _fail(self, task: _Read, code: int) -> None:
        task.answer(abi.failure(task.unique, code))
