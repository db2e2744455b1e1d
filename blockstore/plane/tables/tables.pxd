# The tables of a store, for compiled code. Who may bind and write them stands in tables.pyi.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef struct Columns:
    # Of the block rows (store/state/rows.py): `capacity` elements each. An id from a map or a reference is checked against
    # it before it is used, and an offset with its record's size against `pool_bytes`: damage may have put anything there.
    uint64_t* where
    uint64_t* digest
    uint32_t* reference
    uint16_t* domain
    uint32_t* count
    uint16_t* dependents
    uint64_t capacity
    # Mapped as far as `pool_bytes`, and written by the kernel (pwrite); only what was written has memory.
    const uint8_t* pool
    uint64_t pool_bytes

cdef class Tables:
    cdef Columns columns
    cdef uint64_t[::1] where
    cdef uint64_t[::1] digest
    cdef uint32_t[::1] reference
    cdef uint16_t[::1] domain
    cdef uint32_t[::1] count
    cdef uint16_t[::1] dependents
    cdef const uint8_t[::1] pool
