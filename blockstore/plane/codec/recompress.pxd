# Encoding cold blocks anew. What it does stands in recompress.pyi.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from blockstore.plane.codec.codec cimport RECORD_LIMIT_BYTES, Codec

cdef struct Job:
    # Of one block. The pointers are into the Python objects that the caller of `encode` holds; `reference` may be NULL.
    const uint8_t* block
    const uint8_t* reference
    uint64_t digest
    uint64_t reference_digest
    uint64_t seed
    uint32_t size_bytes
    uint32_t spared_bytes
    int encoding
    # What came of it: a record if `record_bytes` is not 0.
    int record_bytes
    bint becomes_patch
    uint8_t record[4192]

cdef struct Limits:
    # What a record has to save to be taken.
    uint32_t gain_bytes
    uint32_t patch_gain_bytes
    double gain_share
    double enough_share

cdef class Recompressor:
    cdef Codec codec
    cdef Job* jobs
    cdef readonly int capacity
    cdef Limits limits
    cdef bint is_busy
    cdef uint8_t other[4192]
