# WRITE requests in the order in which they came, for lanes and encoders. What it promises stands in write_queue.pyi.

from libc.stdint cimport uint64_t

from blockstore.plane.sync.lock cimport pthread_cond_t, pthread_mutex_t

cdef enum WriteState:
    QUEUED
    TAKEN
    HANDED

cdef struct Write:
    # The bytes from `start` up to `end` of a volume; `request` is what is to be written there.
    void* request
    uint64_t volume
    uint64_t start
    uint64_t end
    WriteState state
    Write* before
    Write* after

cdef class WriteQueue:
    cdef pthread_mutex_t mutex
    cdef pthread_cond_t changed
    cdef Write* first
    cdef Write* last
    cdef int length
    cdef int handed_length
    cdef bint passes_on
    cdef bint holds
    cdef bint is_handing  # a thread has a write that is Python's now, and has not passed it on yet
    cdef bint has_ended
    cdef readonly bint is_ready

    # Each of these takes the queue's own lock, for some comparisons at most.
    cdef Write* enter(self, void* request, uint64_t volume, uint64_t start, uint64_t end, bint* begins) noexcept nogil
    cdef void put_back(self, Write* write) noexcept nogil
    cdef Write* take(self) noexcept nogil
    cdef void hand(self, Write* write) noexcept nogil
    cdef void was_handed(self) noexcept nogil
    cdef void finish(self, Write* write) noexcept nogil
    cdef int locked_look(self, const int* counter) noexcept
    cdef void append(self, Write* write) noexcept nogil
    cdef Write* next(self) noexcept nogil
