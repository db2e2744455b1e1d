"""The lane: answers what touches data straight from /dev/fuse, in two threads (docs/decisions.md, "The lane").

The first is compiled (plane/serve/lane.pyi): it reads the device, answers READ, and needs neither the interpreter's
lock nor the store lock. All else it leaves to the second, this module, through a queue. What may take long (a WRITE of
1 MiB is 256 blocks, milliseconds) becomes a *job*: steps of the store, of which one is done at a time. Between two
steps requests that wait in the queue are looked at. Jobs of different volumes take turns.

A job that finds no room waits (jobs.py). What is in the tier is read by others (fetches.py).
"""

from __future__ import annotations

import errno
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final, NamedTuple

from blockstore.daemon.fuse import fuse_abi as abi
from blockstore.daemon.fuse.device import Device
from blockstore.daemon.fuse.relay import Relay
from blockstore.daemon.lane.encoder_threads import EncoderThreads
from blockstore.daemon.lane.jobs import MAXIMUM_JOBS, Job, Jobs
from blockstore.daemon.lane.lane_priority import LanePriority
from blockstore.daemon.lane.lane_watch import LaneWatch
from blockstore.daemon.lane.latency import Latency
from blockstore.daemon.lane.parked_writes import ParkedWrite, ParkedWrites
from blockstore.daemon.lane.range_requests import RangeRequests
from blockstore.daemon.tiers.fetches import Fetches
from blockstore.errors import CorruptBlock
from blockstore.plane.serve.lane import TIMED_FAULTS
from blockstore.plane.serve.requests import Request, Requests
from blockstore.plane.sync.lock import StoreLock
from blockstore.store.remote.fetch import Wants
from blockstore.store.state.geometry import BLOCK_BYTES, BLOCK_SHIFT
from blockstore.store.steps import NotHere, blocks_of
from blockstore.store.store import SLICE_BLOCKS, Store
from blockstore.store.volume import Volume

log = logging.getLogger(__name__)

REQUESTS_BETWEEN_STEPS: Final = 32
"""Requests that are served at most before the next step of a job, so that many of them do not stop all writers."""

MOST_INTERRUPTED: Final = 256
"""Of interrupted requests so many are remembered: more than threads that are killed while their writes are held."""

SMALL_WRITE_BYTES: Final = SLICE_BLOCKS * BLOCK_BYTES
"""Writes of no more than one step are done at once."""

REST_MS: Final = 1000
"""Without a request, after which a burst of writes is over. The next one pays a millisecond for new buffers: a
thousandth of the time at most."""


class Progress(NamedTuple):
    """How many requests each of the two threads has taken, and how many writes encoders have answered."""

    turns: int
    taken: int
    encoded: int


class Lane:
    """The threads.

    `writers_of(inode, fh)` says how many other handles than `fh` may write to a file; `saw_init` gets the kernel's
    INIT request; `died` is called, in the thread, when one ends by an error; `fetches` are there if there is a tier,
    and `makes_room()` says whether room that a job waits for is being made. `look(tid, lane_tid)` is told which
    thread asked for a fault that was timed, and which one answered it.
    """

    def __init__(
        self,
        device: Device,
        store: Store,
        store_lock: StoreLock,
        relay: Relay,
        writers_of: Callable[[int, int], int],
        saw_init: Callable[[bytes], None],
        died: Callable[[], None],
        fetches: Fetches | None = None,
        makes_room: Callable[[], bool] = bool,
        look: Callable[[int, int], None] | None = None,
    ) -> None:
        self._fd = device.descriptor
        self._device = device
        self._store = store
        self._range_answer = bytearray(_RANGE_ANSWER_BYTES)
        self._store_lock = store_lock
        self._relay = relay
        self._saw_init = saw_init
        self._died = died
        self._requests = Requests(abi.MAXIMUM_REQUEST_BYTES, device.spare_pipes())
        self._encoding = EncoderThreads(store, self._fd, self._requests, died)
        self._encoded = 0
        self._reader = store.lane(
            self._fd,
            device.pipe,
            device.pipe_bytes,
            abi.MAXIMUM_REQUEST_BYTES,
            self._requests,
            self._encoding.encoders,
        )
        self.fault_latency, self._write_latency = Latency(TIMED_FAULTS), Latency()
        self._fetches, self._look = fetches, look
        self._is_paging = fetches is not None and fetches.has_tier
        ask_for = fetches.ask_for if fetches is not None else None
        self._jobs = Jobs(self._answer, self._write_latency, ask_for, makes_room)
        self._served = 0
        self._changed = True
        self._thread = threading.Thread(target=self._run, name="lane requests", daemon=True)
        self._reader_thread = threading.Thread(target=self._run_reader, name="lane", daemon=True)
        self._parked = ParkedWrites()
        self._interrupted: deque[int] = deque(maxlen=MOST_INTERRUPTED)
        """Requests that are not here, or are done. Of a write that is passed on later the kernel says it no more."""
        self.corrupt_reads = 0
        self._handlers = RangeRequests(store, store_lock, self._jobs.enter, self._answer, writers_of).handlers

    @property
    def stalled(self) -> int:
        """Requests that wait for room."""
        return self._jobs.stalled + self._parked.count

    @property
    def refused_writes(self) -> int:
        """Writes that got ENOSPC because too much data waited for room already."""
        return self._parked.refused

    @property
    def turns(self) -> int:
        """Requests taken from the device."""
        return self._reader.turns

    @property
    def progress(self) -> Progress:
        """For `is_stuck`."""
        return Progress(self._reader.turns, self._requests.taken, self._encoding.turns)

    def write_figures(self) -> dict[str, Any]:
        """How long writes took, for `status`."""
        return self._encoding.figures(self._write_latency)

    def start(self, ended: Callable[[], None]) -> None:
        """Serve until the mount is gone, then call `ended` (in the second thread)."""
        self._ended = ended
        os.set_blocking(self._fd, True)  # the daemon before this one may have left it otherwise
        self._encoding.start()
        self._reader_thread.start()
        self._thread.start()

    def join(self) -> None:
        self._thread.join()
        self._reader_thread.join()
        self._encoding.join()

    def _run_reader(self) -> None:
        tid, clock = threading.get_native_id(), time.pthread_getcpuclockid(threading.get_ident())
        priority = LanePriority(tid, lambda: time.clock_gettime(clock))
        watch = LaneWatch(self._reader, priority, partial(self._saw, tid))
        watch.start()  # before the priority, which it would inherit
        priority.take()
        try:
            if not self._reader.serve():
                self._device.tell_that_pipe_is_small()
                self._reader.serve(by_read=True)
        except BaseException:
            log.critical("the lane ended by an error", exc_info=True)
            self._died()
        self._encoding.end()
        self._requests.close()
        self._reader.end()
        watch.join()

    def _run(self) -> None:
        try:
            while self._turn():
                pass
        except BaseException:
            log.critical("the lane ended by an error", exc_info=True)
            self._died()
        self._ended()

    def _turn(self) -> bool:
        """Does what is to be done next. False when the mount is gone."""
        waits = bool(self._parked.count) or self._jobs.has_waiting
        self._encoding.steer(python_waits=waits, python_works=bool(self._jobs.count))
        self._changed |= self._requests.was_woken()
        if self._parked.count and self._jobs.count < MAXIMUM_JOBS:
            self._admit(self._parked.take())
        if self._jobs.count and not self._wait_beside_jobs():
            self._jobs.advance()
            return True
        if self._changed and not self._jobs.count:
            self._upkeep()
        if self._requests.spare and not self._jobs.count and not self._requests.wait(REST_MS):
            encoded, self._encoded = self._encoded, self._encoding.turns
            if self._encoded != encoded:
                return True
            self._requests.trim()
        request = self._requests.take(0 if self._jobs.count else -1)
        if request is not None:
            self._serve(request)
        return request is not None or not self._requests.is_closed

    def is_stuck(self, before: Progress) -> bool:
        """Do requests wait in the device, or in the queue, although none was taken since `progress` was `before`?"""
        waits_in_device = self._reader.turns == before.turns and self._reader.is_waiting()
        waits_in_queue = self._requests.taken == before.taken and bool(self._requests.count)
        is_encoding_stuck = self._encoding.is_stuck(before.encoded)
        now = self.progress
        return (
            (waits_in_device and now.turns == before.turns)
            or (waits_in_queue and now.taken == before.taken)
            or (is_encoding_stuck and now.encoded == before.encoded)
        )

    def trim(self) -> None:
        """Gives back the memory that is kept for the next writes. A guest that writes a little each second never rests,
        and encoders answer it without this thread, which would see that it does. For any thread."""
        self._requests.trim()

    def has_waiting(self) -> bool:
        """Is there something to do: jobs that can go on, or requests that wait? For trio's thread."""
        return (
            self._jobs.can_go_on
            or bool(self._requests.count)
            or self._encoding.has_waiting
            or self._reader.is_waiting()
        )

    def _wait_beside_jobs(self) -> bool:
        """With jobs under way: should a request be taken now?"""
        jobs = self._jobs
        if jobs.can_go_on:
            self._served += 1
            if jobs.takes_more and self._served < REQUESTS_BETWEEN_STEPS and self._requests.count:
                return True
            self._served = 0
            if jobs.retry_in_ms() <= 0:
                jobs.retry()  # those that can go on may never end
            return False
        wait_ms = jobs.retry_in_ms()
        if wait_ms > 0 and self._may_take(wait_ms):
            return True
        jobs.retry()
        return False

    def _may_take(self, wait_ms: float) -> bool:
        """Waits for a request, or for the end, for so long at most."""
        return self._requests.wait(wait_ms) or self._requests.is_closed

    def _serve(self, request: Request) -> None:
        """Answer a request, make a job of it or hand it on. Each one is answered, whatever happens."""
        opcode = request.opcode
        try:
            if opcode == abi.READ:
                self._read(request)
            elif opcode == abi.WRITE:
                self._changed = True
                if not self._write(request):
                    request.done()
            elif opcode in self._handlers:
                self._changed = True
                self._handlers[opcode](request.unique, request.inode, bytes(request)[abi.IN_HEADER.size :])
            else:
                self._hand_on(opcode, request.unique, bytearray(request))
        except Exception:
            if opcode not in abi.UNANSWERED:
                self._fail(request.unique, errno.EIO)
            log.exception("request %d on file %d", opcode, request.inode)
            request.done()

    def _read(self, request: Request) -> None:
        """Answers a READ that the compiled lane could not answer, or has it answered."""
        unique, inode, offset, length = request.unique, request.inode, request.offset, request.length
        try:
            with self._store_lock:
                volume = self._store.volumes[inode]
                try:
                    answer, written = self._store.read_range(volume, offset, length, _HEADER_BYTES, self._range_answer)
                except NotHere:
                    wants = self._store.missing(blocks_of(volume, offset, length)) if length == BLOCK_BYTES else []
                    self._have_answered(request, wants)
                    return
                if length == BLOCK_BYTES and len(answer) == _HEADER_BYTES + BLOCK_BYTES and not offset & _IN_BLOCK:
                    volume.count_fault(written)
                else:
                    volume.count_range(written)
        except CorruptBlock as error:
            self.corrupt_reads += 1
            log.error("reading file %d at %d: %s", inode, offset, error)
            self._fail(unique, errno.EIO)
            return
        except Exception:
            log.exception("reading file %d at %d", inode, offset)
            self._fail(unique, errno.EIO)
            return
        _pack_header_into(answer, 0, len(answer), 0, unique)
        self._answer(answer)

    def _have_answered(self, request: Request, wants: Wants) -> None:
        unique, inode, offset = request.unique, request.inode, request.offset
        if self._fetches is None:
            log.error("reading file %d at %d: there is no tier", inode, offset)
            self._fail(unique, errno.EIO)
            return
        self._fetches.read(unique, inode, offset, request.length, request.pid, self._answer, wants)

    def _saw(self, lane_tid: int, inode: int, offset: int, pid: int, duration_ns: int) -> None:
        """One fault of many was here, says the lane's watch in its thread: what lies around it is not the coldest."""
        self.fault_latency.observe(duration_ns)
        if self._is_paging:
            with self._store_lock:
                volume = self._store.volumes.get(inode)
                if volume is not None:
                    self._store.saw_fault(volume, offset >> BLOCK_SHIFT)
        if pid and self._look is not None:
            self._look(pid, lane_tid)

    def _write(self, request: Request) -> bool:
        """Returns whether a job has the request now."""
        unique, inode, offset, flags = request.unique, request.inode, request.offset, request.flags
        volume = self._store.volumes[inode]
        data = memoryview(request)[abi.HEAD_BYTES :]  # which keeps the request's memory
        size = len(data)
        if (self._parked.count or self._jobs.stalled >= MAXIMUM_JOBS) and not flags & abi.WRITE_CACHE:
            if not self._parked.park(ParkedWrite(unique, inode, offset, bytes(data))):
                self._fail(unique, errno.ENOSPC)  # write(2) can be told; a page fault cannot
            return False
        for write in self._parked.take_those(inode, range(offset, offset + size)) if self._parked.count else ():
            self._admit(write)  # it came before, and what is written back now is newer (jobs.py)
        is_behind = bool(self._jobs.writing(volume, range(offset, offset + size)))
        job = self._write_job(unique, volume, offset, data)
        job.request = request
        if size <= SMALL_WRITE_BYTES and not (self._jobs.can_go_on or is_behind):
            if self._jobs.finish_now(job):
                return False
            self._jobs.enter_waiting(job)
            return True
        self._jobs.enter(job)
        return True

    def _write_job(self, unique: int, volume: Volume, offset: int, data: memoryview) -> Job:
        steps = self._store.write_steps(volume, offset, data)
        answer = partial(_written, unique, len(data))
        interrupted = unique in self._interrupted
        return Job(unique, volume, steps, answer, interrupted=interrupted, written=range(offset, offset + len(data)))

    def _admit(self, write: ParkedWrite) -> None:
        """Makes a job of a write that was parked, or answers it."""
        volume = self._store.volumes.get(write.inode)
        if volume is None:
            self._fail(write.unique, errno.EIO)
            return
        try:
            self._jobs.enter(self._write_job(write.unique, volume, write.offset, memoryview(write.data)))
        except Exception:
            self._fail(write.unique, errno.EIO)
            log.exception("a parked write to file %d", write.inode)

    def _hand_on(self, opcode: int, unique: int, request: bytearray) -> None:
        if self._relay.closed:  # pyfuse3's side has failed; VMs that run get their memory all the same
            if opcode not in abi.UNANSWERED:
                self._fail(unique, errno.EIO)
        elif opcode == abi.INIT:
            self._saw_init(bytes(request))
            self._relay.forward_init(unique, request)
        elif opcode == abi.INTERRUPT:
            (target,) = abi.INTERRUPT_IN.unpack_from(request, abi.IN_HEADER.size)
            if target in self._relay.unanswered:
                self._relay.forward(opcode, unique, request)
            elif self._parked.give_up(target):
                self._fail(target, errno.EINTR)
            elif (self._fetches is None or not self._fetches.interrupt(target)) and not self._jobs.interrupt(target):
                self._interrupted.append(target)
        else:
            self._relay.forward(opcode, unique, request)

    def _upkeep(self) -> None:
        """Compact while nobody waits."""
        while True:
            with self._store_lock:
                if not self._store.compact():
                    self._changed = False
                    return
            if self._requests.count:
                return

    def _fail(self, unique: int, code: int) -> None:
        self._answer(abi.failure(unique, code))

    def _answer(self, *pieces: bytes | memoryview) -> None:
        try:
            os.writev(self._fd, pieces)
        except OSError as error:
            self._refused(error)

    def _refused(self, error: OSError) -> None:
        if error.errno not in (errno.ENOENT, errno.ENODEV):  # interrupted meanwhile; unmounted meanwhile
            log.error("the kernel refused an answer: %s", error.strerror)


def _written(unique: int, size: int) -> bytes:
    """The answer to a WRITE of which all was done."""
    return abi.OUT_U32.pack(abi.OUT_U32.size, 0, unique, size, 0)


_IN_BLOCK: Final = BLOCK_BYTES - 1
_pack_header_into: Final = abi.OUT_HEADER.pack_into
_HEADER_BYTES: Final = abi.OUT_HEADER.size
_RANGE_ANSWER_BYTES: Final = _HEADER_BYTES + (128 << 10)
"""Longer READs, of files that are read with much read-ahead, get a buffer of their own."""
