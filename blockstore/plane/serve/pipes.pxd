# Pipes for WRITEs that nobody has copied yet, for compiled code. What they are stands in pipes.pyi.

from libc.stdint cimport uint8_t

from blockstore.plane.sync.lock cimport pthread_mutex_t

cdef enum:
    MAXIMUM_PIPES = 32

cdef struct Pipe:
    int out  # to read from; -1: no pipe
    int into

cdef class Pipes:
    cdef pthread_mutex_t mutex
    cdef Pipe free_pipes[32]
    cdef int free_count
    cdef bint is_ready

    # Both may be called by any thread, without the interpreter's lock. `take` returns False when there is none.
    cdef bint take(self, Pipe* pipe) noexcept nogil
    cdef void give_back(self, const Pipe* pipe) noexcept nogil

# Reads so many bytes, which are in the pipe. Returns False on an error, and when there are fewer.
cdef bint read_whole(const Pipe* pipe, uint8_t* target, size_t size_bytes) noexcept nogil
