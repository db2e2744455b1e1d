"""The lane: answers what touches data straight from /dev/fuse, in a thread of its own (docs/decisions.md, "The lane").

READ is answered at once. What may take long (a WRITE of 1 MiB is 256 blocks, milliseconds) becomes a *job*: steps
of the store, of which one is done at a time. Between two steps, and every tenth of a millisecond while a step still
encodes, requests that wait in the device are looked at: a fault of one VM waits for a small part of another's
write-back. Jobs of different volumes take turns.

A job that finds no room waits (jobs.py); meanwhile reads go on. What is in the tier is read by others (fetches.py).
A hot path; its benchmark is `scripts/bench fault`.
"""

from __future__ import annotations

import errno
import logging
import mmap
import os
import select
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Final

from blockstore.daemon import fuse_abi as abi
from blockstore.daemon.buffers import REST_MS, Buffers
from blockstore.daemon.device import Device
from blockstore.daemon.door import Door
from blockstore.daemon.fetches import Fetches
from blockstore.daemon.jobs import MAXIMUM_JOBS, Job, Jobs
from blockstore.daemon.latency import Latency
from blockstore.daemon.parked_writes import ParkedWrite, ParkedWrites
from blockstore.daemon.range_requests import RangeRequests
from blockstore.daemon.relay import Relay
from blockstore.daemon.small_writes import GATHERED_BYTES, SmallWrites, is_small, written
from blockstore.errors import BlockstoreError, CorruptBlock
from blockstore.store.decode import NotHere
from blockstore.store.fetch import Blocks, Wants, missing
from blockstore.store.geometry import BLOCK_BYTES, BLOCK_SHIFT, FIRST_ROW, ID_MASK, ZERO_BLOCK, ZERO_ENTRY
from blockstore.store.ingest import SLICE_BLOCKS
from blockstore.store.store import Store
from blockstore.store.volume import Volume

log = logging.getLogger(__name__)

REQUESTS_BETWEEN_STEPS: Final = 32
"""Requests that are served at most before the next step of a job, so that many readers do not stop all writers."""

SMALL_WRITE_BYTES: Final = SLICE_BLOCKS * BLOCK_BYTES
"""Writes up to one step are done at once."""

QUICK_SLICE_BLOCKS: Final = 32
"""What a step takes while faults come: they wait for two thirds of the time, and writes take half as long again."""

QUICK_STEPS: Final = 2
"""Steps after a read that are still quick. A fault now and then should not make all writes dearer."""

REQUESTS_A_BREATH: Final = 4
"""Requests that are served at most while a step takes breath, which it does every tenth of a millisecond."""

TIMED_FAULTS: Final = 16
"""Of so many requests one is timed if it is a fault: timing all of them would make each two percent slower."""


class Lane:
    """The thread.

    `writers_of(inode, fh)` says how many other handles than `fh` may write to a file; `saw_init` gets the kernel's
    INIT request; `died` is called, in the thread, when it ends by an error; `fetches` are there if there is a tier, and
    `makes_room()` says whether room that a job waits for is being made.
    """

    def __init__(
        self,
        device: Device,
        store: Store,
        door: Door,
        relay: Relay,
        writers_of: Callable[[int, int], int],
        saw_init: Callable[[bytes], None],
        died: Callable[[], None],
        fetches: Fetches | None = None,
        makes_room: Callable[[], bool] = bool,
    ) -> None:
        self._fd = device.descriptor
        self._device = device
        self._store = store
        self._verified = store.decoder.verified
        self._door = door
        self._somebody_waits, self._door_itself = door.somebody_waits, door.itself
        self._relay = relay
        self._saw_init = saw_init
        self._died = died
        self._poll = select.poll()
        self._poll.register(self._fd, select.POLLIN)
        self._poll_pending = select.poll()  # for another thread: one poll object is for one thread
        self._poll_pending.register(self._fd, select.POLLIN)
        self._buffers = Buffers(_REQUEST_BYTES)
        self._request = self._buffers.take()
        self.fault_latency, self.write_latency = Latency(TIMED_FAULTS), Latency()
        self._fetches = fetches
        self._wants: Wants = []  # of the fault that `_fault` has just left to `_read`
        self._is_paging = fetches is not None and fetches.has_tier
        ask_for = fetches.ask_for if fetches is not None else None
        self._jobs = Jobs(door, self._answer, self._leave, self.write_latency, ask_for, makes_room)
        self._served = 0
        self._gathered_end = 0
        self._free_from = 0  # what stands in the buffer before is still needed
        self._held_bytes = 0  # of a request that stands behind, and was read during a step that must end first
        self._held_in_a_row = 0
        self._in_step = False
        store.breathe_with(self._breathe)
        self._quick_steps = 0
        self._changed = True
        self._thread = threading.Thread(target=self._run, name="lane", daemon=True)
        self._parked = ParkedWrites()
        self.corrupt_reads = 0
        self.turns = 0
        """Requests taken from the device."""
        self._handlers = RangeRequests(store, door, self._jobs.enter, self._answer, writers_of).handlers

    @property
    def stalled(self) -> int:
        """Requests that wait for room."""
        return self._jobs.stalled + self._parked.count

    @property
    def refused_writes(self) -> int:
        """Writes that got ENOSPC because too much data waited for room already."""
        return self._parked.refused

    def start(self, ended: Callable[[], None]) -> None:
        """Serve until the mount is gone, then call `ended` (in the lane's thread)."""
        self._ended = ended
        os.set_blocking(self._fd, True)  # whoever served before may have been killed within _read_at_once
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    def _run(self) -> None:
        try:
            while True:
                if self._held_bytes:
                    self._take_held()
                    continue
                self._held_in_a_row = 0
                if self._parked.count and self._jobs.count < MAXIMUM_JOBS:
                    self._admit(self._parked.take())
                if self._jobs.count and not self._wait_beside_jobs():
                    self._advance()
                    continue
                if self._changed and not self._jobs.count:
                    self._upkeep()
                if self._buffers.spare and not self._jobs.count and not self._poll.poll(REST_MS):
                    self._request = self._buffers.renew()
                if not self._serve_one():
                    break
        except BaseException:
            log.critical("the lane ended by an error", exc_info=True)
            self._died()
        self._ended()

    def _advance(self) -> None:
        """One step of a job."""
        self._store.slice_blocks = self._slice_blocks()
        self._free_from, self._in_step = 0, True
        self._jobs.advance()
        self._in_step = False

    def _breathe(self) -> None:
        """Answer the faults that wait, within a step of a write. It is at the door for us, and its data must stay."""
        if threading.current_thread() is not self._thread:
            return
        for _ in range(REQUESTS_A_BREATH):
            has_room = self._jobs.takes_more and len(self._request) - self._free_from >= _ONE_REQUEST_BYTES
            if self._held_bytes or self._held_in_a_row >= REQUESTS_BETWEEN_STEPS:
                return
            if not has_room or not self._poll.poll(0):
                return
            try:
                size = self._device.read_at_once(memoryview(self._request)[self._free_from :])
            except OSError:
                return  # whoever reads next will say so
            if not size:
                return
            self.turns += 1
            opcode, unique, inode, offset, length, _ = _unpack_request(self._request, self._free_from)
            if opcode == abi.READ:
                if length != BLOCK_BYTES or not self._fault(unique, inode, offset, _INSIDE):
                    self._read(unique, inode, offset, length, self._free_from, _INSIDE)
                self._quick_steps = QUICK_STEPS
            elif self._in_step and opcode != abi.LSEEK and not (opcode == abi.WRITE and is_small(offset, length)):
                self._take(0, size)
            else:
                self._held_bytes = size

    def _take_held(self) -> None:
        """Takes the request that was read during a step, and that stands behind what the step needed.

        Called by the loop of the thread only: a request that is taken may leave another one behind itself.
        """
        size, self._held_bytes = self._held_bytes, 0
        self._request.move(0, self._free_from, size)
        self._free_from = 0
        self._held_in_a_row += 1
        self._take(0, size)

    def is_stuck(self, turns_before: int) -> bool:
        """Do requests wait in the device, although none was taken since `turns` was `turns_before`?"""
        return self.turns == turns_before and bool(self._poll_pending.poll(0)) and self.turns == turns_before

    def has_waiting(self) -> bool:
        """Is there something to do: jobs that can go on, or requests in the device? For trio's thread."""
        return self._jobs.can_go_on or bool(self._poll_pending.poll(0))

    def _wait_beside_jobs(self) -> bool:
        """With jobs under way: should the device be read now?"""
        jobs = self._jobs
        if jobs.can_go_on:
            self._served += 1
            if jobs.takes_more and self._served < REQUESTS_BETWEEN_STEPS and self._poll.poll(0):
                return True
            self._served = 0
            if jobs.retry_in_ms() <= 0:
                jobs.retry()  # those that can go on may never end
            return False
        wait_ms = jobs.retry_in_ms()
        if wait_ms > 0 and self._poll.poll(wait_ms):
            return True
        jobs.retry()
        return False

    def _serve_one(self) -> bool:
        """Read one request and answer it, make a job of it or hand it on; without jobs, all faults that come before it
        too. False when the mount is gone."""
        request, jobs = self._request, self._jobs
        while True:
            try:
                size = self._device.read_at_once(request) if jobs.count else self._device.read(request)
            except OSError as error:
                if error.errno in (errno.ENOENT, errno.EINTR):
                    return True  # the request was withdrawn before we could read it
                if error.errno == errno.ENODEV:
                    return False
                raise
            if not size:
                return True
            self.turns += 1
            opcode, unique, inode, offset, length, _ = _unpack_request(request)
            if opcode != abi.READ:
                break
            if self.turns % TIMED_FAULTS:
                if length != BLOCK_BYTES or not self._fault(unique, inode, offset):
                    self._read(unique, inode, offset, length, 0)
            else:
                started_ns = time.perf_counter_ns()
                if length != BLOCK_BYTES or not self._fault(unique, inode, offset):
                    self._read(unique, inode, offset, length, 0)
                self.fault_latency.observe(time.perf_counter_ns() - started_ns)
                if self._is_paging:
                    self._saw(inode, offset)
            if jobs.count or self._changed:
                self._quick_steps = QUICK_STEPS
                return True
        self._take(0, size)
        return True

    def _take(self, at: int, size: int) -> None:
        """A request that is no READ, `size` bytes from `at` in the buffer. Each one is answered, whatever happens."""
        opcode, unique, inode, offset, _, flags = _unpack_request(self._request, at)
        try:
            if opcode == abi.WRITE:
                self._changed = True
                self._write(at, unique, inode, offset, size - abi.HEAD_BYTES, flags)
            elif opcode in self._handlers:
                self._changed = True
                self._handlers[opcode](unique, inode, self._request[at + abi.IN_HEADER.size : at + size])
            else:
                self._hand_on(opcode, unique, bytearray(self._request[at : at + size]))
        except Exception:
            if opcode not in abi.UNANSWERED:
                self._fail(unique, errno.EIO)
            log.exception("request %d on file %d", opcode, inode)

    def _fault(self, unique: int, inode: int, offset: int, door: AbstractContextManager[object] | None = None) -> bool:
        """Answer for one whole block in as few steps as there can be; False when `_read` has to look closer."""
        try:
            volume = self._store.volumes[inode]
            if offset & _IN_BLOCK or offset + BLOCK_BYTES > volume.size_bytes:
                return False
            with door or (self._door if self._somebody_waits() else self._door_itself):
                entry = volume.lookup(offset >> BLOCK_SHIFT)
                try:
                    if not entry:
                        block = ZERO_BLOCK
                    else:
                        block = ZERO_BLOCK if entry == ZERO_ENTRY else self._verified(entry, volume.domain.seed)
                        volume.refaults += 1
                except NotHere:
                    self._wants = self._missing(offset >> BLOCK_SHIFT, volume)
                    return False
        except Exception:  # whatever it is, `_read` says so
            return False
        try:
            # One piece: a second one costs the kernel more than it costs to put them together.
            os.write(self._fd, _pack_header(_BLOCK_ANSWER_BYTES, 0, unique) + block)
        except OSError as error:
            self._refused(error)
        return True

    def _read(
        self,
        unique: int,
        inode: int,
        offset: int,
        length: int,
        at: int,
        door: AbstractContextManager[object] | None = None,
    ) -> None:
        """Answer a READ that stands at `at` in the buffer, or have it answered."""
        wants, self._wants = self._wants, []
        if wants:  # `_fault` has looked
            self._have_answered(unique, inode, offset, length, at, wants)
            return
        try:
            with door or self._door:
                volume = self._store.volumes[inode]
                pieces = self._store.read(volume, offset, length)
                volume.count_range(offset, length)
        except NotHere:
            self._have_answered(unique, inode, offset, length, at, [])
            return
        except CorruptBlock as error:
            self.corrupt_reads += 1
            log.error("reading file %d at %d: %s", inode, offset, error)
            self._fail(unique, errno.EIO)
            return
        except Exception:
            log.exception("reading file %d at %d", inode, offset)
            self._fail(unique, errno.EIO)
            return
        total = abi.OUT_HEADER.size + (len(pieces[0]) if len(pieces) == 1 else sum(map(len, pieces)))
        self._answer(abi.OUT_HEADER.pack(total, 0, unique), *pieces)

    def _have_answered(self, unique: int, inode: int, offset: int, length: int, at: int, wants: Wants) -> None:
        if self._fetches is None:
            log.error("reading file %d at %d: there is no tier", inode, offset)
            self._fail(unique, errno.EIO)
            return
        (pid,) = abi.PID.unpack_from(self._request, at + abi.PID_OFFSET)
        self._fetches.read(unique, inode, offset, length, pid, self._answer, wants)

    def _missing(self, block: int, volume: Volume) -> Wants:
        store = self._store
        return missing(store.rows, store.decoder.cache, store.pool.arrivals, Blocks(volume, block, block + 1))

    def _saw(self, inode: int, offset: int) -> None:
        """One fault of many was here: what lies around it is not the coldest."""
        with self._door:
            volume, rows = self._store.volumes.get(inode), self._store.rows
            row = volume.lookup(offset >> BLOCK_SHIFT) & ID_MASK if volume is not None else 0
            if FIRST_ROW <= row < rows.capacity:
                self._store.paging.saw(rows.where.items[row])

    def _write(self, at: int, unique: int, inode: int, offset: int, size: int, flags: int) -> None:
        volume = self._store.volumes[inode]
        buffer = self._request
        data = memoryview(buffer)[at + abi.HEAD_BYTES : at + abi.HEAD_BYTES + size]
        if (self._parked.count or self._jobs.stalled >= MAXIMUM_JOBS) and not flags & abi.WRITE_CACHE:
            if not self._parked.park(ParkedWrite(unique, inode, offset, bytes(data))):
                self._fail(unique, errno.ENOSPC)  # write(2) can be told; a page fault cannot
            return
        for write in self._parked.take_those(inode, range(offset, offset + size)) if self._parked.count else ():
            self._admit(write)  # it came before, and what is written back now is newer (jobs.py)
        is_behind = bool(self._jobs.writing(volume, range(offset, offset + size)))
        if not (at or self._in_step or self._jobs.stalled or is_behind) and is_small(offset, size):
            together = SmallWrites(volume.domain, self._slice_blocks())
            together.add(unique, volume, offset, data)
            self._write_together(together, abi.HEAD_BYTES + size)
            return
        job = self._write_job(unique, volume, offset, data, buffer)
        if size <= SMALL_WRITE_BYTES and not (self._jobs.can_go_on or is_behind or self._quick_steps):
            self._free_from = at + abi.HEAD_BYTES + size
            if not self._jobs.finish_now(job):
                self._request = self._buffers.take()
                self._request[: self._held_bytes] = buffer[self._free_from : self._free_from + self._held_bytes]
                self._free_from = 0
                self._jobs.enter_waiting(job)
            return
        self._request = self._buffers.take()
        self._jobs.enter(job)

    def _write_job(
        self, unique: int, volume: Volume, offset: int, data: memoryview, buffer: mmap.mmap | None = None
    ) -> Job:
        steps = self._store.write_steps(volume, offset, data)
        answer = partial(written, unique, len(data))
        return Job(unique, volume, steps, answer, buffer, written=range(offset, offset + len(data)))

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

    def _slice_blocks(self) -> int:
        """How much the next step shall take."""
        if not self._quick_steps:
            return SLICE_BLOCKS
        self._quick_steps -= 1
        return QUICK_SLICE_BLOCKS

    def _write_together(self, together: SmallWrites, end: int) -> None:
        """Store what was read so far, up to `end` in the buffer, with the small writes that wait in the device; faults
        that wait between them are answered. Writes of a file may overtake its jobs, but none of the same bytes."""
        try:
            self._held_bytes = self._gather(together, end)
            self._free_from = self._gathered_end
            self._store_together(together)
        except Exception:
            log.exception("small writes")
            for answer in together.failures(errno.EIO):  # to those that were answered already the kernel refuses it
                self._answer(answer)

    def _store_together(self, together: SmallWrites) -> None:
        try:
            with self._door:
                stored = together.store(self._store)
        except BlockstoreError:
            stored = False  # each by itself: some may be well, and the others say why not
        except Exception:
            log.exception("small writes")
            stored = False
        if stored:
            for answer in together.answers():
                self._answer(answer)
                self.write_latency.observe(time.perf_counter_ns() - together.started_ns)
        else:
            for unique, volume, offset, data in together.singly():
                self._jobs.enter(self._write_job(unique, volume, offset, memoryview(data)))

    def _gather(self, together: SmallWrites, end: int) -> int:
        """Read on behind `end`; the size of a request that does not belong there, at `_gathered_end`, or 0. Never
        waits."""
        for _ in range(REQUESTS_BETWEEN_STEPS):
            self._gathered_end = end
            if together.is_full or not self._poll.poll(0):
                break
            try:
                size = self._device.read_at_once(memoryview(self._request)[end:])
            except OSError:
                break  # withdrawn, or the mount is gone: whoever reads next will say so
            if not size:
                break
            self.turns += 1
            opcode, unique, inode, offset, length, _ = _unpack_request(self._request, end)
            if opcode == abi.READ:
                if length != BLOCK_BYTES or not self._fault(unique, inode, offset):
                    self._read(unique, inode, offset, length, end)
                self._quick_steps = QUICK_STEPS
                continue
            bytes_written = size - abi.HEAD_BYTES
            try:
                volume = self._fits(together, inode, offset, bytes_written) if opcode == abi.WRITE else None
            except Exception:
                log.exception("small writes")  # this one goes the way of all others, where each is answered
                volume = None
            if volume is None:
                return size
            together.add(unique, volume, offset, memoryview(self._request)[end + abi.HEAD_BYTES : end + size])
            end += size
        return 0

    def _fits(self, together: SmallWrites, inode: int, offset: int, size: int) -> Volume | None:
        """The file, if a write to it may be stored together with these."""
        volume = self._store.volumes.get(inode)
        if volume is None or not together.takes(volume, offset, size) or self._parked.count:
            return None
        return None if self._jobs.writing(volume, range(offset, offset + size)) else volume

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
            elif self._fetches is None or not self._fetches.interrupt(target):
                self._jobs.interrupt(target)
        else:
            self._relay.forward(opcode, unique, request)

    def _leave(self, job: Job) -> None:
        if job.buffer is not None:
            self._buffers.give_back(job.buffer)

    def _upkeep(self) -> None:
        """Compact while nobody waits."""
        upkeep = self._store.upkeep
        while True:
            with self._door:
                if not (upkeep.due() and upkeep.step()):
                    self._changed = False
                    return
            if self._poll.poll(0):
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


_IN_BLOCK: Final = BLOCK_BYTES - 1
_ONE_REQUEST_BYTES: Final = abi.HEAD_BYTES + abi.MAXIMUM_WRITE_BYTES + 4096
_REQUEST_BYTES: Final = _ONE_REQUEST_BYTES + GATHERED_BYTES
"""A buffer for one request, behind small writes. The kernel refuses less room than for the largest write and 4 KiB of
headers."""

_INSIDE: Final = nullcontext()
"""For whoever is at the door already."""

_unpack_request: Final = abi.REQUEST.unpack_from
_pack_header: Final = abi.OUT_HEADER.pack
_BLOCK_ANSWER_BYTES: Final = abi.OUT_HEADER.size + BLOCK_BYTES
