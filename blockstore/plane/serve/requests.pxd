# Requests of the kernel on their way from lanes to those who take them. What they are stands in requests.pyi.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from blockstore.plane.sync.lock cimport pthread_cond_t, pthread_mutex_t
from blockstore.plane.serve.pipes cimport Pipe, Pipes
from blockstore.plane.serve.write_queue cimport Write, WriteQueue

cdef enum:
    # Large buffers that are in use at once. Those who take requests keep up to 56: MAXIMUM_JOBS (jobs.py), and as many
    # as the kernel sends of write-back (relay.py, MAXIMUM_BACKGROUND) while those wait for room.
    MAXIMUM_LARGE = 64
    SPARE_LARGE = 2  # kept for the next WRITE: a new one costs up to a tenth of what encoding its content does
    SMALL_BYTES = 8192  # requests up to here, with WRITEs of a block, lie in memory of just their size
    MAXIMUM_QUEUED = 1024  # requests in one queue: then lanes wait, and the kernel keeps the rest

# The layout of a request, of which the first 40 bytes are always there; the rest is that of READ and WRITE
# (include/uapi/linux/fuse.h, fuse_in_header and fuse_read_in).
cdef struct Head:
    uint32_t size_bytes
    uint32_t opcode
    uint64_t unique
    uint64_t inode
    uint32_t uid
    uint32_t gid
    uint32_t pid
    uint32_t extensions
    uint64_t handle
    uint64_t offset
    uint32_t length
    uint32_t flags
    uint64_t lock_owner
    uint32_t open_flags
    uint32_t padding

cdef enum:
    HEADER_BYTES = 40
    HEAD_BYTES = 80

cdef struct PlaneRequest:
    PlaneRequest* next
    uint8_t* data  # at least HEAD_BYTES, zeros behind the end of a shorter request
    size_t size_bytes
    bint is_large
    Pipe pipe  # of a WRITE that nobody has copied: `data` has HEAD_BYTES, all else is in here
    int64_t came_ns  # of a WRITE (CLOCK_MONOTONIC)
    Write* write  # of a WRITE that stands in `writes` until it is given back

cdef struct Buffers:
    pthread_mutex_t lock
    pthread_cond_t returned
    size_t large_bytes
    uint8_t* spare[2]
    int spares
    int in_use
    bint is_closed

cdef struct Queue:
    pthread_mutex_t lock
    pthread_cond_t came
    pthread_cond_t went
    PlaneRequest* first
    PlaneRequest* last
    uint64_t count
    bint is_closed
    bint is_woken

cdef class Requests:
    cdef Buffers buffers
    cdef Queue queue
    cdef readonly uint64_t taken
    cdef WriteQueue writes  # None while nobody encodes
    cdef Pipes pipes
    cdef void drop_spares(self) noexcept nogil

cdef class Request:
    cdef PlaneRequest* request
    cdef Requests owner

# All may be called by any thread, without the interpreter's lock.

# Returns room for a request of so many bytes, in memory of its own; NULL without memory.
cdef PlaneRequest* new_small(size_t size_bytes) noexcept nogil

# The same in a large buffer, of `large_bytes`, after waiting until one may be had or the queue is
# closed; NULL without memory.
cdef PlaneRequest* new_large(Buffers* buffers) noexcept nogil

# Returns a WRITE of which `head` is HEAD_BYTES, and all else is in the pipe, which goes with it; the pipe becomes another,
# empty one. NULL where there is none, or no memory.
cdef PlaneRequest* new_in_pipe(Pipes pipes, Pipe* pipe, const void* head) noexcept nogil

# Copies what is in the pipe of a request, if it has one, to a large buffer. Returns False without memory, or when the pipe
# has less than it should.
cdef bint fill(Requests owner, PlaneRequest* request) noexcept nogil

cdef void give_back(Buffers* buffers, PlaneRequest* request) noexcept nogil

# Appends, after waiting while the queue is full. Returns False when it is closed: the request is the caller's still.
cdef bint push(Queue* queue, PlaneRequest* request) noexcept nogil

# Has one who waits in `take` or `wait` return, as if for a request.
cdef void wake(Queue* queue) noexcept nogil

# Returns the oldest, after waiting for one for so long (negative: until the queue is closed); NULL if none came.
cdef PlaneRequest* pop(Queue* queue, int64_t timeout_ns) noexcept nogil
