"""Storing and answering WRITE. See encoders.pyi."""

from cpython.buffer cimport PyBUF_READ
from cpython.exc cimport PyErr_SetFromErrno
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.errno cimport errno
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from blockstore.plane.sync.atomics cimport count_64, load_64
from blockstore.plane.tables.block_map cimport MapView
from blockstore.plane.sync.clock cimport CLOCK_MONOTONIC, now_ns
from blockstore.plane.blocks.commit cimport (
    OUTCOME_COMMITTED,
    OUTCOME_DROPPED,
    OUTCOME_NEEDS_PYTHON,
    OUTCOME_STALE,
    Commit,
    Outcome,
    commit_write,
)
from blockstore.plane.blocks.encode cimport Batch
from blockstore.plane.codec.layout cimport BLOCK_BYTES, BLOCK_SHIFT
from blockstore.plane.sync.lock cimport StoreLock
from blockstore.plane.serve.requests cimport HEAD_BYTES, Head, PlaneRequest, Requests, fill, give_back, push, wake
from blockstore.plane.tables.volumes cimport LaneState, VolumeTable, come_in, find, go_out
from blockstore.plane.serve.write_queue cimport HANDED, Write, WriteQueue

cdef extern from "<unistd.h>" nogil:
    ssize_t write_to "write"(int fd, const void* buffer, size_t size)
    long syscall(long number, ...)

cdef extern from "<sys/syscall.h>" nogil:
    long SYS_sched_setattr

cdef extern from "<sched.h>" nogil:
    int sched_yield()

cdef struct SchedulingAttributes:
    # struct sched_attr (include/uapi/linux/sched/types.h), as of its first version.
    uint32_t size_bytes
    uint32_t policy
    uint64_t flags
    int32_t nice
    uint32_t priority
    uint64_t runtime_ns
    uint64_t deadline_ns
    uint64_t period_ns

cdef enum:
    WRITE_CACHE = 1  # FUSE_WRITE_CACHE: written back from the page cache, nobody's write(2)

cdef struct WrittenAnswer:
    # fuse_out_header and fuse_write_out (include/uapi/linux/fuse.h)
    uint32_t size_bytes
    int32_t error
    uint64_t unique
    uint32_t written_bytes
    uint32_t padding


def take_little(int nice, uint64_t slice_ns):
    cdef SchedulingAttributes attributes
    memset(&attributes, 0, sizeof(attributes))
    attributes.size_bytes = sizeof(attributes)
    attributes.nice = nice
    attributes.runtime_ns = slice_ns
    if syscall(SYS_sched_setattr, <long>0, &attributes, <long>0):
        PyErr_SetFromErrno(OSError)


def give_way():
    with nogil:
        sched_yield()


cdef bint push_write(Encoders encoders, PlaneRequest* request, Batch batch, LaneState* state) noexcept nogil:
    cdef const Head* head = <const Head*>request.data
    cdef uint64_t size = request.size_bytes - HEAD_BYTES
    cdef bint begins = size == BLOCK_BYTES and not head.offset & (BLOCK_BYTES - 1) and not head.flags & WRITE_CACHE
    cdef Write* write
    request.came_ns = now_ns(CLOCK_MONOTONIC)
    write = encoders.queue.enter(request, head.inode, head.offset, head.offset + size, &begins)
    if write == NULL:
        return False
    if begins:
        if encoders.store(write, 0, 1, batch, state, False) == OUTCOME_COMMITTED:
            encoders.answer(write)
        else:
            encoders.queue.put_back(write)
    return True


cdef class Encoders:
    def __cinit__(
        self,
        int fd,
        VolumeTable volumes not None,
        Requests requests not None,
        Commit commit not None,
        StoreLock lock not None,
        int reserved_segments,
        bounds_us,
    ):
        if len(bounds_us) >= CLASSES:
            raise ValueError(f"{len(bounds_us)} bounds for {CLASSES} classes")
        self.fd, self.volumes, self.requests, self.commit, self.lock = fd, volumes, requests, commit, lock
        self.reserved_segments = reserved_segments
        self.bounds = len(bounds_us)
        for number, bound_us in enumerate(bounds_us):
            self.bounds_ns[number] = 1000 * bound_us
        memset(self.counts, 0, sizeof(self.counts))
        self.turn_count = self.filled = self.sum_ns = 0
        self.queue = WriteQueue()
        requests.writes = self.queue

    @property
    def turns(self):
        return load_64(&self.turn_count)

    @property
    def latency(self):
        return [load_64(&self.counts[number]) for number in range(self.bounds + 1)], load_64(&self.sum_ns) // 1000

    def serve(self, Batch batch not None, int slice_blocks, ask not None):
        cdef Write* write
        cdef LaneState* state
        cdef bint is_whole = True
        if not 0 < slice_blocks <= batch.most:
            raise ValueError(f"slices of {slice_blocks} blocks in a batch of {batch.most}")
        state = self.volumes.enter_lane()
        try:
            with nogil:
                while True:
                    write = self.queue.take()
                    if write == NULL:
                        break
                    is_whole = fill(self.requests, <PlaneRequest*>write.request)
                    if not is_whole:
                        break
                    if write.state == HANDED:
                        self.hand_over(write)
                    elif self.write_all(write, batch, state, slice_blocks, ask):
                        self.answer(write)
                    else:
                        self.queue.hand(write)
                        self.hand_over(write)
        finally:
            self.volumes.leave_lane(state)
        if not is_whole:
            raise MemoryError("no memory for a write")

    cdef bint write_all(
        self, Write* write, Batch batch, LaneState* state, int slice_blocks, object ask
    ) noexcept nogil:
        """Stores a write, a slice at a time. Returns False when Python has to store all of it."""
        cdef const uint8_t* data = (<PlaneRequest*>write.request).data + HEAD_BYTES
        cdef uint64_t size = write.end - write.start
        cdef uint64_t skip = 0
        cdef uint64_t blocks
        cdef Outcome outcome
        if (write.start | write.end) & (BLOCK_BYTES - 1) or write.start >= write.end:
            return False
        while skip < size:
            blocks = min((size - skip) >> BLOCK_SHIFT, <uint64_t>slice_blocks)
            outcome = self.store(write, skip, blocks, batch, state, True)
            if outcome == OUTCOME_STALE or outcome == OUTCOME_NEEDS_PYTHON and not self.ask_python(
                ask, write.volume, write.start + skip, data + skip, blocks << BLOCK_SHIFT, batch
            ):
                return False
            skip += blocks << BLOCK_SHIFT
        return True

    cdef Outcome store(
        self, const Write* write, uint64_t skip, uint64_t blocks, Batch batch, LaneState* state, bint waits
    ) noexcept nogil:
        """Stores so many blocks of a write from byte `skip` of it on.

        Returns OUTCOME_COMMITTED, also when the file is gone and nothing is stored; OUTCOME_NEEDS_PYTHON when the
        batch has them encoded and its commit lacks room; OUTCOME_STALE when they were not encoded, because lanes do not
        know the file, or when the store lock is not free and `waits` is not set. Of the latter two nothing has changed.
        """
        cdef const uint8_t* data = (<const PlaneRequest*>write.request).data + HEAD_BYTES + skip
        cdef uint64_t first = (write.start + skip) >> BLOCK_SHIFT
        cdef MapView* view
        cdef Outcome outcome = OUTCOME_DROPPED
        come_in(state)
        view = find(self.volumes, write.volume)
        if view != NULL:
            batch.load_blocks(view, data, <int>blocks)
        go_out(state)
        if view == NULL:
            return OUTCOME_STALE
        batch.encode_without_lock()
        if not self.lock.try_to_acquire():
            if not waits:
                return OUTCOME_STALE
            self.lock.acquire()
        view = find(self.volumes, write.volume)  # nothing takes it away while the lock is held
        if waits:
            batch.index.move_for(batch.contents)
        if view != NULL:
            outcome = commit_write(
                &self.commit.books, batch, view, first, (first + blocks) << BLOCK_SHIFT, self.reserved_segments
            )
        self.wake_python()
        self.lock.release()
        return OUTCOME_COMMITTED if outcome == OUTCOME_DROPPED else outcome

    cdef bint ask_python(
        self, object ask, uint64_t inode, uint64_t offset, const void* data, size_t size, Batch batch
    ) noexcept nogil:
        with gil:
            try:
                return bool(ask(inode, offset, PyMemoryView_FromMemory(<char*>data, size, PyBUF_READ), batch))
            except Exception:
                return False  # Python gets the whole write, meets the error again, and says so

    cdef void wake_python(self) noexcept nogil:
        """Has Python take back what was let go, and compact, when a segment is full; with the store lock."""
        if self.commit.books.log.filled != self.filled or self.commit.books.log.emptied_count:
            self.filled = self.commit.books.log.filled
            wake(&self.requests.queue)

    cdef void hand_over(self, Write* write) noexcept nogil:
        """Lets Python have a write, which stays in the queue until Python lets go of it."""
        cdef PlaneRequest* request = <PlaneRequest*>write.request
        request.write = write
        if not push(&self.requests.queue, request):  # the mount has ended, and nobody waits for an answer
            request.write = NULL
            give_back(&self.requests.buffers, request)
            self.queue.finish(write)
        self.queue.was_handed()

    cdef void answer(self, Write* write) noexcept nogil:
        cdef PlaneRequest* request = <PlaneRequest*>write.request
        cdef WrittenAnswer answer
        answer.size_bytes = sizeof(answer)
        answer.error = 0
        answer.unique = (<const Head*>request.data).unique
        answer.written_bytes = <uint32_t>(write.end - write.start)
        answer.padding = 0
        self.observe(now_ns(CLOCK_MONOTONIC) - request.came_ns)
        count_64(&self.turn_count, 1)
        write_to(self.fd, &answer, sizeof(answer))  # an error says that the request was interrupted, or the mount ended
        # Not before the answer: a later write of these bytes could be answered first, and if this process is killed then,
        # the kernel sends this one again, and no more the later one.
        self.queue.finish(write)
        give_back(&self.requests.buffers, request)

    cdef void observe(self, int64_t duration_ns) noexcept nogil:
        cdef int place = 0
        while place < self.bounds and duration_ns > self.bounds_ns[place]:
            place += 1
        count_64(&self.counts[place], 1)
        count_64(&self.sum_ns, <uint64_t>duration_ns)
