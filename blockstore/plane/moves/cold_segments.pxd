# The segments that a pass of re-encoding looks at, for compiled code. What they are stands in cold_segments.pyi.

from libc.stdint cimport int64_t, uint8_t, uint64_t

cdef class ColdSegments:
    cdef readonly uint64_t count
    cdef int64_t* generation  # of each that is full; NOT_FULL of the others
    cdef uint8_t* cold
    cdef void choose(self, bint is_cold) noexcept nogil
    cdef int make_room(self, uint64_t count) except -1
    cdef int refuse_shorter(self, Py_ssize_t length) except -1


cdef inline bint is_cold(ColdSegments segments, uint64_t segment) noexcept nogil:
    """Returns whether it is one of the pass; False for any number that is none of a segment when the pass began."""
    return segment < segments.count and segments.cold[segment]
