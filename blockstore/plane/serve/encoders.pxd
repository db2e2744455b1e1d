# Threads that answer WRITE, for compiled code. What they are stands in encoders.pyi.

from libc.stdint cimport int64_t, uint64_t

from blockstore.plane.blocks.commit cimport Commit, Outcome
from blockstore.plane.blocks.encode cimport Batch
from blockstore.plane.sync.lock cimport StoreLock
from blockstore.plane.serve.requests cimport PlaneRequest, Requests
from blockstore.plane.tables.volumes cimport LaneState, VolumeTable
from blockstore.plane.serve.write_queue cimport Write, WriteQueue

cdef enum:
    CLASSES = 24  # of times: one more than there are bounds

cdef class Encoders:
    cdef int fd
    cdef VolumeTable volumes
    cdef Requests requests
    cdef Commit commit
    cdef StoreLock lock
    cdef readonly WriteQueue queue
    cdef int reserved_segments
    cdef uint64_t turn_count  # writes that were answered here
    cdef uint64_t filled  # the log's count of heads when Python was woken last
    cdef int bounds
    cdef int64_t bounds_ns[24]
    cdef uint64_t counts[24]
    cdef uint64_t sum_ns

    cdef void observe(self, int64_t duration_ns) noexcept nogil
    cdef Outcome store(
        self, const Write* write, uint64_t skip, uint64_t blocks, Batch batch, LaneState* state, bint waits
    ) noexcept nogil
    cdef bint write_all(self, Write* write, Batch batch, LaneState* state, int slice_blocks, object ask) noexcept nogil
    cdef void hand_over(self, Write* write) noexcept nogil
    cdef void answer(self, Write* write) noexcept nogil
    cdef bint ask_python(
        self, object ask, uint64_t inode, uint64_t offset, const void* data, size_t size, Batch batch
    ) noexcept nogil
    cdef void wake_python(self) noexcept nogil

# Takes a WRITE of the kernel, which is theirs from now on: stores and answers it at once when it is one block of somebody's
# write(2) and nothing is in the way, and queues it otherwise. Returns False when there is no memory to queue it, and then
# it is the caller's still. `batch` and `state` are those of the calling thread.
cdef bint push_write(Encoders encoders, PlaneRequest* request, Batch batch, LaneState* state) noexcept nogil
