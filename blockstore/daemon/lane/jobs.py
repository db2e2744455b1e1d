"""Jobs of the lane: requests that take several steps of the store, and those of them that wait for room.

Jobs of different volumes take turns, those of one volume come one after the other. A step that finds no room leaves
its job *stalled*: it is tried again every STALL_RETRY_MS. A step that needs what is in the tier has its job wait for a
ticket (fetches.py). A write of bytes that an earlier one also writes begins when that one is done: the kernel lets a
page that write(2) has filled be changed through a mapping, and writes it back, while the request of write(2) is under
way (fs/fuse/file.c, fuse_fill_write_pages), and what was written back last must stay.
"""

from __future__ import annotations

import errno
import logging
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from blockstore.daemon.fuse import fuse_abi as abi
from blockstore.daemon.lane.latency import Latency
from blockstore.daemon.lane.waits import NO_ROOM_TEXT, ROOM_RETRY_S
from blockstore.daemon.tiers.fetches import Ticket
from blockstore.errors import BlockstoreError, InputError, OutOfRoom
from blockstore.plane.serve.requests import Request
from blockstore.store.steps import Blocks, Outcome, Steps, Yielded, take_step
from blockstore.store.volume import Volume

log = logging.getLogger(__name__)

MAXIMUM_JOBS: Final = 32
"""Jobs under way at once, each with a request of up to 1 MiB. The kernel sends at most MAXIMUM_BACKGROUND (relay.py)
write-back requests at once; direct writers come on top. When there are more, no request is taken from the lane until
one is done; when so many wait for room, it is, and further direct writes are parked (parked_writes.py)."""

STALL_RETRY_MS: Final = 1000 * ROOM_RETRY_S
"""How long jobs that found no room wait after all of them have tried; from the first of them on, 32 jobs would never
leave off."""

TICKET_LOOK_MS: Final = 2
"""How often a job looks whether its blocks have come from the tier: about what a disk takes."""


@dataclass(slots=True, eq=False)
class Job:
    """A request that is answered when its steps are done."""

    unique: int
    volume: Volume
    steps: Steps
    answer: Callable[[], bytes]
    started_ns: int = field(default_factory=time.perf_counter_ns)
    interrupted: bool = False
    """Whoever asked has got a signal: the job is given up when it finds no room."""
    needs: Blocks | None = None
    """Of the tier, to go on."""
    request: Request | None = None
    """The write, behind which others may wait until it is done."""
    is_stalled: bool = False
    """It has found no room, and is not done since."""
    written: range = range(0)
    """The bytes of the file that it writes; empty for what is no write."""
    after: list[Job] = field(default_factory=list)
    """Jobs that came before, which write some of the same bytes and are not done."""


class Jobs:
    """All that are under way. `answer` sends an answer; `ask_for` has blocks fetched from the tier, if there
    is one; `makes_room()`: is the pager at it?"""

    def __init__(
        self,
        answer: Callable[[bytes], None],
        write_latency: Latency,
        ask_for: Callable[[Blocks], Ticket] | None = None,
        makes_room: Callable[[], bool] = bool,
    ) -> None:
        self._answer = answer
        self._write_latency = write_latency
        self._queues: OrderedDict[int, deque[Job]] = OrderedDict()  # by volume, the next one first
        self._ask_for = ask_for
        self._makes_room = makes_room
        self._fetching: list[tuple[Job, Ticket]] = []
        self._stalled: list[Job] = []  # those that are not tried again just now
        self._behind: list[Job] = []  # those that have others to come after
        self.stalled = 0
        """Jobs that wait for room, those that are tried again included: whoever asks shall not see them come and go."""
        self._was_stalled = False
        self._retry_at_ms = 0.0
        self._is_retrying = False
        self.count = 0
        """Jobs under way, those that are stalled included."""

    @property
    def takes_more(self) -> bool:
        """May a request be taken? When all places are taken by those that wait for room, what makes room must come
        through, and reads; a write(2) that comes then is parked."""
        return self.count < MAXIMUM_JOBS or self.stalled >= MAXIMUM_JOBS

    @property
    def has_waiting(self) -> bool:
        """Does a job wait for room, or for the tier?"""
        return bool(self.stalled or self._fetching)

    @property
    def can_go_on(self) -> bool:
        """Is there a job that waits neither for room nor for the tier?"""
        return bool(self._queues)

    def enter(self, job: Job) -> None:
        """One more."""
        job.after = self.writing(job.volume, job.written)
        self.count += 1
        if job.after:
            self._behind.append(job)
        else:
            self._let_go_on(job)

    def writing(self, volume: Volume, written: range) -> list[Job]:
        """Those under way that write to any of these bytes."""
        if not self.count:
            return []
        queue = self._queues.get(volume.number, ())
        waiting = (*self._behind, *self._stalled, *(job for job, _ in self._fetching))
        return [
            job
            for job in (*queue, *waiting)
            if job.volume is volume and job.written.start < written.stop and written.start < job.written.stop
        ]

    def enter_waiting(self, job: Job) -> None:
        """One more, which could not go on already."""
        self.count += 1
        self._wait(job)

    def advance(self) -> None:
        """One step of one job."""
        if not self._queues:
            return
        number, queue = next(iter(self._queues.items()))
        job = queue[0]
        said = self._step(job)
        if said is Outcome.WENT_ON:
            self._queues.move_to_end(number)
            return
        queue.popleft()
        if not queue:
            del self._queues[number]
        if self._is_retrying and not self._queues:
            self._is_retrying = False
            self._retry_at_ms = time.monotonic() * 1000 + STALL_RETRY_MS
        if isinstance(said, (Outcome, Blocks)):
            self._wait(job)
            return
        self._answer(said)
        self._end(job)
        self._observe(job)
        if self._was_stalled and not self._stalled and not self._queues:
            self._was_stalled = False
            log.warning("the pool has room again: all writes that waited are done")

    def finish_now(self, job: Job) -> bool:
        """Take all steps of a small job that was not entered, and answer; False when it has to wait."""
        while True:
            said = self._step(job)
            if said is Outcome.WENT_ON:
                continue
            if isinstance(said, (Outcome, Blocks)):
                return False
            self._answer(said)
            self._observe(job)
            return True

    def retry_in_ms(self) -> float:
        """When jobs that wait shall be tried again; not positive if that is now."""
        if any(ticket.done for _, ticket in self._fetching):
            return 0.0
        wait_ms = self._retry_at_ms - time.monotonic() * 1000 if self._stalled else STALL_RETRY_MS
        return min(wait_ms, TICKET_LOOK_MS) if self._fetching else wait_ms

    def retry(self) -> None:
        """Let those try again that have got their blocks, and in their time all that wait for room."""
        ready = [job for job, ticket in self._fetching if ticket.done]
        self._fetching = [(job, ticket) for job, ticket in self._fetching if not ticket.done]
        now_ms = time.monotonic() * 1000
        if now_ms >= self._retry_at_ms:
            self._retry_at_ms = now_ms + STALL_RETRY_MS
            self._is_retrying = True
            ready += self._stalled
            self._stalled = []
        for job in ready:
            self._let_go_on(job)

    def interrupt(self, unique: int) -> bool:
        """A process that waits may be killed; other requests of ours are done in milliseconds anyway. Returns whether
        this one is here."""
        for job, ticket in self._fetching:
            if job.unique == unique:
                self._fetching.remove((job, ticket))
                ticket.given_up = True
                self._give_up(job)
                return True
        for waiting in (self._stalled, self._behind):
            for job in waiting:
                if job.unique == unique:
                    waiting.remove(job)
                    self._give_up(job)
                    return True
        for queue in self._queues.values():  # it may be there to be tried again
            for job in queue:
                if job.unique == unique:
                    job.interrupted = True
                    return True
        return False

    def _let_go_on(self, job: Job) -> None:
        self._queues.setdefault(job.volume.number, deque()).append(job)

    def _step(self, job: Job) -> bytes | Yielded:
        """Takes a step. Returns how it ended, or the answer to the request when that was the last one."""
        try:
            outcome = take_step(job.steps)
            job.needs = outcome if isinstance(outcome, Blocks) else None
            return job.answer() if outcome is None else outcome
        except OutOfRoom as error:
            log.error("file %d: %s", job.volume.number, error)
            code = errno.ENOSPC
        except InputError:
            code = errno.EFBIG
        except BlockstoreError as error:
            log.error("file %d: %s", job.volume.number, error)
            code = errno.EIO
        except Exception:
            log.exception("request on file %d", job.volume.number)
            code = errno.EIO
        return abi.failure(job.unique, code)

    def _observe(self, job: Job) -> None:
        if job.written:  # and no cloning or punching
            self._write_latency.observe(time.perf_counter_ns() - job.started_ns)

    def _wait(self, job: Job) -> None:
        if job.interrupted:
            self._give_up(job)
        elif job.needs is not None and self._ask_for is not None:
            self._fetching.append((job, self._ask_for(job.needs)))
        else:
            self._stall(job)

    def _stall(self, job: Job) -> None:
        if not self._was_stalled and not self._makes_room():
            log.error(NO_ROOM_TEXT, "writes wait")
            self._was_stalled = True
        self.stalled += not job.is_stalled
        job.is_stalled = True
        self._stalled.append(job)

    def _give_up(self, job: Job) -> None:
        self._answer(abi.failure(job.unique, errno.EINTR))
        self._end(job)

    def _end(self, job: Job) -> None:
        if job.request is not None:
            job.request.done()
        self.count -= 1
        self.stalled -= job.is_stalled
        for other in [other for other in self._behind if job in other.after]:
            other.after.remove(job)
            if not other.after:
                self._behind.remove(other)
                self._let_go_on(other)
