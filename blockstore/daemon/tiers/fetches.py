"""Fetching what is in the tier for who waits for it: READs that the lane could not answer, and jobs.

A few threads, because each is at the tier most of the time. A READ that has got its records is decoded with the store
lock and answered here, as the lane would; an answer is one write(2), for which no lock is needed. Nobody gets an error
because the tier is away: it is asked again, less and less often, until it answers. Those that are not answered when the
daemon dies are asked anew by the kernel. Nor for a signal, unless it kills who waits: a VM that faults on its memory
within a system call, or in KVM, would be told that it has none there (EFAULT).

How many can wait is limited by who asks: a thread of a VM waits for one fault, the kernel for some read-ahead
(relay.py); each takes a few hundred bytes here.
"""

from __future__ import annotations

import errno
import heapq
import logging
import signal
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Final

from blockstore.daemon.fuse import fuse_abi as abi
from blockstore.daemon.lane.latency import Latency
from blockstore.daemon.lane.waits import TierRetry
from blockstore.daemon.tiers.sources import SourceAway, Sources
from blockstore.daemon.tiers.tier_health import TierHealth
from blockstore.errors import CorruptBlock
from blockstore.plane.sync.lock import StoreLock
from blockstore.store.remote.fetch import Wants, none_fetched, read
from blockstore.store.state.geometry import BLOCK_BYTES
from blockstore.store.steps import Blocks, NotHere, blocks_of
from blockstore.store.store import Store
from blockstore.store.tiers import WAIT_S, Tier, TierAway

log = logging.getLogger(__name__)

FETCHERS: Final = 4
"""Threads. The records of one fault are one read of a disk, or one round trip; four of them keep either busy."""

LONG_S: Final = WAIT_S
"""A READ that has waited for longer is told of: a disk that hangs never says that it fails."""

END_S: Final = 15.0
"""How long the threads may take to end; longer than a tier may take to be away (WAIT_S)."""

Answer = Callable[..., None]


@dataclass(slots=True, eq=False)
class Ticket:
    """Of a job that waits for blocks."""

    blocks: Blocks
    done: bool = False
    given_up: bool = False
    retry: TierRetry = field(default_factory=TierRetry)


@dataclass(slots=True, eq=False)
class _Read:
    """A READ of the kernel."""

    unique: int
    inode: int
    offset: int
    length: int
    pid: int
    """Of the thread that waits, 0 if it has none here."""
    answer: Answer
    wants: Wants
    """What was missing when somebody looked, for a start."""
    data: memoryview | None = None
    """The answer, with room for the header in front."""
    interrupted: bool = False
    """The thread has got a signal, and the kernel says so only once."""
    retry: TierRetry = field(default_factory=TierRetry)
    started_ns: int = field(default_factory=time.perf_counter_ns)


class Fetches:
    """Of one daemon, its tier, if it has one, and its sources."""

    def __init__(self, store: Store, store_lock: StoreLock, tier: Tier | None, sources: Sources) -> None:
        self._store = store
        self._store_lock = store_lock
        self._tier = tier
        self._sources = sources
        self._changed = threading.Condition(threading.Lock())
        self._ready: deque[_Read | Ticket] = deque()
        self._later: list[tuple[float, int, _Read | Ticket]] = []  # a heap
        self._order = count()
        self._reads: dict[int, _Read] = {}
        self._ends = False
        self._threads: list[threading.Thread] = []
        self.health = TierHealth(tier.describe() if tier is not None else "", "VMs that need what is in it wait")
        self.latency = Latency()
        """Of READs that needed the tier."""
        self.corrupt_reads = 0

    @property
    def has_tier(self) -> bool:
        """Is there one?"""
        return self._tier is not None

    @property
    def waiting(self) -> int:
        """READs that wait for the tier."""
        return len(self._reads)

    @property
    def waits_long_s(self) -> float:
        """How long the READ that waits longest has, if that is longer than LONG_S; else 0."""
        with self._changed:
            started_ns = min((task.started_ns for task in self._reads.values()), default=None)
        waited_s = (time.perf_counter_ns() - started_ns) / 1e9 if started_ns is not None else 0.0
        return waited_s if waited_s > LONG_S else 0.0

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
        ends_s = time.monotonic() + END_S
        for thread in self._threads:
            thread.join(max(ends_s - time.monotonic(), 0.0))

    def read(self, unique: int, inode: int, offset: int, length: int, pid: int, answer: Answer, wants: Wants) -> None:
        """Answer this READ of the thread `pid` when its records are here. `wants` are those, if that is known."""
        task = _Read(unique, inode, offset, length, pid, answer, wants)
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
        """The same, now, by the caller's thread, which has not the store lock. Raises TierAway."""
        try:
            self._attempt(lambda: self._store.missing(blocks))
        except TierAway as error:
            self._failed(error)
            raise
        self.health.answered()

    def interrupt(self, unique: int) -> bool:
        """Whoever waits for this READ has got a signal. Is it one of ours?"""
        with self._changed:
            task = self._reads.get(unique)
        if task is None:
            return False
        task.interrupted = True
        self._give_up_if_killed(task)
        return True

    def _give_up_if_killed(self, task: _Read) -> None:
        if task.interrupted and _is_killed(task.pid) and self._claim(task):
            self._fail(task, errno.EINTR)

    def _claim(self, task: _Read) -> bool:
        """Is it still to be answered? True once."""
        with self._changed:
            return self._reads.pop(task.unique, None) is task

    def _run(self) -> None:
        while (task := self._take()) is not None:
            try:
                again = not self._serve(task)
            except Exception:
                log.exception("fetching from the tier")
                again = False
                if isinstance(task, Ticket):
                    task.done = True  # what is wrong comes up when the job goes on
                elif self._claim(task):
                    self._fail(task, errno.EIO)
            if again:
                self._put_off(task)

    def _put_off(self, task: _Read | Ticket) -> None:
        if isinstance(task, _Read):
            self._give_up_if_killed(task)
        with self._changed:
            heapq.heappush(self._later, (time.monotonic() + task.retry.pause_s(), next(self._order), task))
            self._changed.notify()  # others may wait for longer than that

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
                if not (task.given_up if isinstance(task, Ticket) else self._reads.get(task.unique) is not task):
                    return task
            return None

    def _serve(self, task: _Read | Ticket) -> bool:
        """Fetch and answer; False when the tier is away."""
        try:
            if isinstance(task, Ticket):
                self._attempt(lambda: self._store.missing(task.blocks))
                task.done = True
            else:
                self._serve_read(task)
        except TierAway as error:
            self._failed(error)
            return False
        self.health.answered()
        return True

    def _serve_read(self, task: _Read) -> None:
        try:
            try:
                self._attempt(lambda: self._decode(task), task.wants)
            except CorruptBlock:  # what was fetched may be damaged, and the tier may have it right
                with self._store_lock:
                    self._store.forget_fetched()
                self._attempt(lambda: self._decode(task))
        except CorruptBlock as error:
            self.corrupt_reads += 1
            log.error("reading file %d at %d: %s", task.inode, task.offset, error)
            if self._claim(task):
                self._fail(task, errno.EIO)
            return
        data = task.data
        assert data is not None, "without an answer a page would be zeros; this makes it EIO"
        if self._claim(task):
            abi.OUT_HEADER.pack_into(data, 0, len(data), 0, task.unique)
            task.answer(data)
            with self._changed:
                self.latency.observe(time.perf_counter_ns() - task.started_ns)

    def _attempt(self, visit: Callable[[], Wants], wants: Wants | None = None) -> None:
        """Visit the store until it wants nothing more, and fetch in between; with `wants`, these first. Raises
        TierAway."""
        before = none_fetched()
        fetched = read(self._tier, self._sources.readers, wants or [])
        while True:
            with self._store_lock:
                self._store.keep_again(before)  # others may have filled the caches meanwhile
                self._store.keep(fetched)
                wants = visit()
            if not wants:
                return
            before.records.extend(fetched.records)
            before.arrived.extend(fetched.arrived)
            fetched = read(self._tier, self._sources.readers, wants)

    def _failed(self, error: TierAway) -> None:
        if not isinstance(error, SourceAway):  # which tells of itself
            self.health.failed(error)

    def _decode(self, task: _Read) -> Wants:
        volume = self._store.volumes[task.inode]
        if volume.deleted:
            raise KeyError(task.inode)
        try:
            task.data, written = self._store.read_range(volume, task.offset, task.length, abi.OUT_HEADER.size)
        except NotHere:
            return self._store.missing(blocks_of(volume, task.offset, task.length))
        if task.length <= BLOCK_BYTES:
            volume.count_fault(1)
        else:
            volume.count_range(written)
        return []

    def _fail(self, task: _Read, code: int) -> None:
        task.answer(abi.failure(task.unique, code))


def _is_killed(pid: int) -> bool:
    """Has this thread been killed, so that it ends as soon as its READ is answered? It is not known of those that no
    number stands for here: they have to wait."""
    if not pid:
        return False
    try:
        lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
    except OSError:
        return True  # it is gone
    pending = next((line.split()[1] for line in lines if line.startswith("SigPnd:")), "0")
    return bool(int(pending, 16) >> (signal.SIGKILL - 1) & 1)
