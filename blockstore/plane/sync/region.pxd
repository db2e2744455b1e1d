# The memory of a file at one address for good. See region.pyi.

from libc.stdint cimport uint8_t

cdef class Region:
    cdef uint8_t* base
    # Bytes that are mapped, and those that views show: all of these have memory, or are a sparse file's.
    cdef readonly size_t reserved_bytes
    cdef readonly size_t size_bytes
    cdef bint writable
