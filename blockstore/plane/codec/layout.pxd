# The stored format, for compiled code; store/state/geometry.py explains it and has the same numbers (test_layout.py).

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum:
    BLOCK_BYTES = 4096
    BLOCK_SHIFT = 12
    SEGMENT_SHIFT = 20
    SEGMENT_BYTES = 0x100000

    HOLE = 0
    ZERO = 1
    LOST = 2
    DUE = 3
    FIRST_ROW = 4
    DUE_CHECK = 61

    FREE = 0
    RAW = 1
    COMPRESSED = 2
    PATCHED = 3
    DENSE = 4
    DENSE_FIRST = 5
    DENSE_SECOND = 6
    DENSE_PATCHED = 7
    PATCH_BITS = 3
    ENCODING_MASK = 7

    SIZE_SHIFT = 3
    SIZE_MASK = 0x1FFF
    OFFSET_SHIFT = 16
    CHECK_SHIFT = 32
    WHERE_SEGMENT_SHIFT = 36
    PIECE_MASK = 0x7FFFFFF

cdef extern from *:
    """
    #define ZERO_ENTRY ((uint64_t)0x7a65726f << 32 | 1) /* "zero" */
    #define LOST_ENTRY ((uint64_t)0x6c6f7374 << 32 | 2) /* "lost" */
    #define HINT UINT32_C(0x80000000)
    #define ID_MASK UINT64_C(0xffffffff)
    """
    const uint64_t ZERO_ENTRY
    const uint64_t LOST_ENTRY
    const uint32_t HINT
    const uint64_t ID_MASK


cdef inline uint32_t size_of(uint64_t where) noexcept nogil:
    """Bytes of the record at a location word."""
    return <uint32_t>(where >> SIZE_SHIFT & SIZE_MASK)


cdef inline uint64_t offset_of(uint64_t where) noexcept nogil:
    """Byte offset in the pool of the record at a location word; beyond any pool if it is PAGED."""
    return where >> OFFSET_SHIFT


cdef inline int encoding_of(uint64_t where) noexcept nogil:
    return <int>(where & ENCODING_MASK)


cdef inline bint is_patch(uint64_t where) noexcept nogil:
    return where & PATCH_BITS == PATCH_BITS


cdef inline bint is_dense(int encoding) noexcept nogil:
    """Whether it is one of zstd's, alone, with a dictionary, or against a reference."""
    return encoding >= DENSE


cdef inline bint needs_dictionary(int encoding) noexcept nogil:
    return encoding == DENSE_FIRST or encoding == DENSE_SECOND


cdef inline bint is_paged(uint64_t where) noexcept nogil:
    """Whether the record is in the tier."""
    return where >> 63
