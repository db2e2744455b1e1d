# The clocks of the system (clock_gettime(3)), in nanoseconds.

from libc.stdint cimport int64_t

cdef extern from "<time.h>" nogil:
    struct timespec:
        long tv_sec
        long tv_nsec
    int CLOCK_MONOTONIC
    int CLOCK_REALTIME
    int clock_gettime(int clock, timespec* now)

cdef enum:
    SECOND_NS = 1000000000

# Of CLOCK_MONOTONIC or CLOCK_REALTIME.
cdef inline int64_t now_ns(int clock) noexcept nogil:
    cdef timespec now
    clock_gettime(clock, &now)
    return <int64_t>now.tv_sec * SECOND_NS + now.tv_nsec
