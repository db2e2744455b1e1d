"""Answers READ, and WRITE of one block, straight from /dev/fuse. See lane.pyi."""

import os

cimport cython
from cpython.exc cimport PyErr_SetFromErrno
from libc.errno cimport EAGAIN, ECONNABORTED, EINTR, EINVAL, EIO, ENODEV, ENOENT, ENOMEM, errno
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from blockstore.plane.sync.atomics cimport full_fence, load_64, store_64
from blockstore.plane.tables.block_map cimport MapView, count_fault, count_range
from blockstore.plane.sync.clock cimport CLOCK_MONOTONIC, now_ns
from blockstore.plane.codec.codec cimport Codec
from blockstore.plane.blocks.decode cimport read_unlocked
from blockstore.plane.blocks.encode cimport Batch
from blockstore.plane.serve.encoders cimport Encoders, push_write
from blockstore.plane.codec.layout cimport BLOCK_BYTES, BLOCK_SHIFT
from blockstore.plane.sync.mapped cimport (
    MADV_DONTNEED,
    MAP_ANONYMOUS,
    MAP_FAILED,
    MAP_PRIVATE,
    PROT_READ,
    PROT_WRITE,
    madvise,
    mmap,
    munmap,
)
from blockstore.plane.serve.pipes cimport read_whole
from blockstore.plane.serve.requests cimport (
    HEAD_BYTES,
    HEADER_BYTES,
    SMALL_BYTES,
    Head,
    PlaneRequest,
    Requests,
    give_back,
    new_in_pipe,
    new_large,
    new_small,
    push,
)
from blockstore.plane.tables.tables cimport Tables
from blockstore.plane.tables.volumes cimport VolumeTable, come_in, find, go_out

cdef extern from "<unistd.h>" nogil:
    ssize_t read(int fd, void* buffer, size_t size)
    ssize_t write(int fd, const void* buffer, size_t size)
    int close(int fd)

cdef extern from "<fcntl.h>" nogil:
    ssize_t splice(int source, void* source_at, int target, void* target_at, size_t size, unsigned int flags)

cdef extern from "<poll.h>" nogil:
    struct pollfd:
        int fd
        short events
        short revents
    int POLLIN
    int poll(pollfd* fds, unsigned long count, int timeout_ms)

cdef extern from "<sys/eventfd.h>" nogil:
    int EFD_CLOEXEC
    int eventfd(unsigned int start, int flags)

cdef enum:
    OPCODE_READ = 15
    OPCODE_WRITE = 16
    ANSWER_HEADER_BYTES = 16
    LARGEST_READ = 1 << 20  # the kernel's largest read-ahead
    ANSWER_BYTES = (1 << 20) + 8192  # of an unaligned READ one block more; and the header
    KEPT_ANSWER_BYTES = (128 << 10) + 4096  # the usual read-ahead; what is beyond it goes back after a rest
    REST_MS = 1000  # without a request; the next long READ pays a tenth of a millisecond for new memory
    TIMED = 17

LARGEST_READ_BYTES = LARGEST_READ
TIMED_FAULTS = TIMED


cdef struct AnswerHead:
    uint32_t size_bytes
    int error
    uint64_t unique


cdef int serve_all(Lane lane) noexcept nogil:
    """Serves until something ends it; returns its errno."""
    cdef PlaneRequest* request
    cdef ssize_t size
    cdef Head* head
    cdef bint is_answered
    while True:
        if lane.is_answer_large:
            shrink_after_rest(lane)
        request = NULL
        size = receive_directly(lane, &request) if lane.is_direct else receive(lane, &request)
        if size <= 0:
            if size == -ENOENT or size == -EINTR:
                continue  # the request was withdrawn before it could be taken
            if size == -EAGAIN:
                is_readable(lane.fd, -1)
                continue
            return ENODEV if size == 0 else <int>-size  # the other end of a socket, in tests, is closed
        lane.turn += 1
        store_64(&lane.turn_count, lane.turn)
        head = <Head*>(request.data if request != NULL else <uint8_t*>lane.head)
        is_answered = size >= HEAD_BYTES and head.opcode == OPCODE_READ and answer_read(lane, head)
        if lane.turn % TIMED == 0:
            wake_watcher(lane)  # behind its sample
        if is_answered:
            give_back(&lane.requests.buffers, request)
            continue
        if request == NULL:
            request = new_small(size)
            if request == NULL:
                return ENOMEM
            memcpy(request.data, lane.head, size)
        request.size_bytes = size
        if lane.encoders is not None and head.opcode == OPCODE_WRITE and size > HEAD_BYTES:
            if not push_write(lane.encoders, request, lane.batch, lane.state):
                give_back(&lane.requests.buffers, request)
                return ENOMEM
            continue
        if not push(&lane.requests.queue, request):
            give_back(&lane.requests.buffers, request)
            return ENODEV


cdef ssize_t receive(Lane lane, PlaneRequest** request) noexcept nogil:
    """Takes a request through the pipe, to `lane.head` or, a large one, to a new `request`. Returns its size, or
    -errno."""
    cdef ssize_t size
    size = splice(lane.fd, NULL, lane.pipe.into, NULL, min(lane.request_bytes, lane.pipe_bytes), 0)
    if size <= 0:
        return size if size == 0 else -errno
    if size > SMALL_BYTES:
        return receive_large(lane, size, request)
    return size if read_whole(&lane.pipe, <uint8_t*>lane.head, size) and size >= HEADER_BYTES else -EIO


cdef ssize_t receive_large(Lane lane, ssize_t size, PlaneRequest** request) noexcept nogil:
    """Takes a request that is in the pipe: a WRITE with the pipe, which encoders copy it out of, any other one copied."""
    if not read_whole(&lane.pipe, <uint8_t*>lane.head, HEAD_BYTES):
        return -EIO
    if lane.encoders is not None and (<const Head*>lane.head).opcode == OPCODE_WRITE:
        request[0] = new_in_pipe(lane.requests.pipes, &lane.pipe, lane.head)
        if request[0] != NULL:
            return size
    request[0] = new_large(&lane.requests.buffers)
    if request[0] == NULL:
        return -ENOMEM
    memcpy(request[0].data, lane.head, HEAD_BYTES)
    if read_whole(&lane.pipe, request[0].data + HEAD_BYTES, size - HEAD_BYTES):
        return size
    give_back(&lane.requests.buffers, request[0])
    request[0] = NULL
    return -EIO


cdef ssize_t receive_directly(Lane lane, PlaneRequest** request) noexcept nogil:
    """The same without the pipe."""
    cdef ssize_t size
    if lane.direct == NULL:
        lane.direct = new_large(&lane.requests.buffers)
        if lane.direct == NULL:
            return -ENOMEM
    size = read(lane.fd, lane.direct.data, lane.request_bytes)
    if size <= 0:
        return size if size == 0 else -errno
    if size < HEADER_BYTES:
        return -EIO
    if size <= SMALL_BYTES:
        memcpy(lane.head, lane.direct.data, size)
    else:
        request[0] = lane.direct
        lane.direct = NULL
    return size


cdef bint answer_read(Lane lane, const Head* head) noexcept nogil:
    """Answers a READ. Returns False when Python has to."""
    cdef int64_t started_ns = now_ns(CLOCK_MONOTONIC) if lane.turn % TIMED == 0 else 0
    cdef uint64_t length
    cdef uint64_t skip = head.offset & (BLOCK_BYTES - 1)
    cdef uint8_t* answer = lane.answer + skip
    cdef AnswerHead answer_head
    cdef bint is_read
    if head.length > LARGEST_READ:
        return False
    come_in(lane.state)
    is_read = read_range(lane, head, &length)
    go_out(lane.state)
    if not is_read:
        return False
    # One piece: a second one costs the kernel more than it costs to have it all in one. The header overwrites what is in
    # front of the first byte that was asked for.
    answer_head.size_bytes = <uint32_t>(ANSWER_HEADER_BYTES + length)
    answer_head.error = 0
    answer_head.unique = head.unique
    memcpy(answer, &answer_head, ANSWER_HEADER_BYTES)
    if ANSWER_HEADER_BYTES + skip + length > KEPT_ANSWER_BYTES:
        lane.is_answer_large = True
    if write(lane.fd, answer, ANSWER_HEADER_BYTES + length) < 0 and errno != ENOENT and errno != ENODEV:
        return False  # not interrupted, not unmounted: Python tries again, and says why it fails
    if started_ns:
        add_sample(lane, head, now_ns(CLOCK_MONOTONIC) - started_ns)
    return True


cdef bint read_range(Lane lane, const Head* head, uint64_t* length) noexcept nogil:
    """Reads the blocks of a READ behind the header of the answer, and counts it. Returns False when that cannot be done.

    For a lane that is inside (volumes.pyi).
    """
    cdef MapView* view = find(lane.volumes, head.inode)
    cdef uint64_t size, count
    cdef uint64_t written = 0
    cdef uint64_t skip = head.offset & (BLOCK_BYTES - 1)
    if view == NULL:
        return False
    size = load_64(&view.size_bytes)
    length[0] = min(<uint64_t>head.length, size - head.offset) if head.offset < size else 0
    count = (skip + length[0] + BLOCK_BYTES - 1) >> BLOCK_SHIFT if length[0] else 0
    if read_unlocked(
        &lane.codec.contexts, &lane.tables.columns, view, head.offset >> BLOCK_SHIFT, count, lane.reference,
        lane.answer + ANSWER_HEADER_BYTES, &written
    ) != count:
        return False
    if head.length == BLOCK_BYTES and not skip and length[0] == BLOCK_BYTES:
        count_fault(view, written)
    else:
        count_range(view, written)
    return True


cdef void shrink_after_rest(Lane lane) noexcept nogil:
    if not is_readable(lane.fd, REST_MS):
        madvise(lane.answer + KEPT_ANSWER_BYTES, ANSWER_BYTES - KEPT_ANSWER_BYTES, MADV_DONTNEED)
        lane.is_answer_large = False


cdef bint is_readable(int fd, int timeout_ms) noexcept nogil:
    """Waits for so long (negative: for ever). An error counts as something to read, for the read says which."""
    cdef pollfd poll_fd
    poll_fd.fd = fd
    poll_fd.events = POLLIN
    poll_fd.revents = 0
    return poll(&poll_fd, 1, timeout_ms) != 0


cdef void add_sample(Lane lane, const Head* head, int64_t duration_ns) noexcept nogil:
    cdef uint64_t number = lane.written_samples
    cdef Sample* sample = &lane.samples[number % SAMPLES]
    if number - load_64(&lane.read_samples) >= SAMPLES:
        return
    sample.inode = head.inode
    sample.offset = head.offset
    sample.pid = head.pid if head.length == BLOCK_BYTES else 0
    sample.duration_ns = duration_ns
    store_64(&lane.written_samples, number + 1)


cdef void wake_watcher(Lane lane) noexcept nogil:
    cdef uint64_t one = 1
    full_fence()  # between the sample, or the end, and the look whether the watcher has looked for it in vain
    if load_64(&lane.is_watched):
        store_64(&lane.is_watched, 0)
        write(lane.event, &one, sizeof(one))


@cython.no_gc_clear  # what __dealloc__ gives back to must be there
cdef class Lane:
    def __cinit__(
        self,
        int fd,
        pipe,
        size_t pipe_bytes,
        size_t request_bytes,
        Tables tables not None,
        VolumeTable volumes not None,
        Requests requests not None,
        Encoders encoders=None,
        Batch batch=None,
    ):
        cdef void* answer
        self.event = -1
        if request_bytes > requests.buffers.large_bytes:
            raise ValueError(f"requests of {request_bytes} bytes do not fit into {requests.buffers.large_bytes}")
        if encoders is not None and batch is None:
            raise ValueError("encoders, and no batch for writes of one block")
        self.fd, (self.pipe.out, self.pipe.into) = fd, pipe
        self.pipe_bytes, self.request_bytes = pipe_bytes, request_bytes
        self.tables, self.volumes, self.requests = tables, volumes, requests
        self.encoders, self.batch = encoders, batch
        self.codec = Codec()
        answer = mmap(NULL, ANSWER_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        if answer == MAP_FAILED:
            raise MemoryError
        self.answer = <uint8_t*>answer
        self.event = eventfd(0, EFD_CLOEXEC)
        if self.event < 0:
            PyErr_SetFromErrno(OSError)
        self.state = volumes.enter_lane()

    def __dealloc__(self):
        if self.state != NULL:
            self.volumes.leave_lane(self.state)
        if self.direct != NULL:
            give_back(&self.requests.buffers, self.direct)
        if self.answer != NULL:
            munmap(self.answer, ANSWER_BYTES)
        if self.event >= 0:
            close(self.event)

    @property
    def turns(self):
        return load_64(&self.turn_count)

    def serve(self, *, bint by_read=False):
        cdef int failed
        self.is_direct = by_read
        with nogil:
            failed = serve_all(self)
        if failed == EINVAL and not by_read:
            return False
        if failed == ENOMEM:
            raise MemoryError
        # fs/fuse/dev.c, fuse_dev_do_read(): ENODEV if the connection ended before a request was looked for, ECONNABORTED
        # if it was aborted after one was found.
        if failed != ENODEV and failed != ECONNABORTED:
            raise OSError(failed, os.strerror(failed))
        return True

    def end(self):
        cdef uint64_t one = 1
        store_64(&self.has_ended, 1)
        full_fence()
        write(self.event, &one, sizeof(one))

    def is_waiting(self):
        return bool(is_readable(self.fd, 0))

    def take_samples(self):
        cdef uint64_t turns, seen
        cdef ssize_t taken
        store_64(&self.is_watched, 1)
        full_fence()
        if load_64(&self.written_samples) == load_64(&self.read_samples):
            if load_64(&self.has_ended):
                return None
            with nogil:
                taken = read(self.event, &turns, sizeof(turns))
        found = []
        seen = load_64(&self.read_samples)
        while seen < load_64(&self.written_samples):
            sample = self.samples[seen % SAMPLES]
            found.append((sample.inode, sample.offset, sample.pid, sample.duration_ns))
            seen += 1
        store_64(&self.read_samples, seen)
        return found
