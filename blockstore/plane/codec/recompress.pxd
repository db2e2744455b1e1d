# Encoding cold blocks anew, for compiled code. What is chosen stands in recompress.pyi.

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from blockstore.plane.codec.codec cimport Codec
from blockstore.plane.codec.dictionary cimport ZSTD_CDict

cdef struct Job:
    # Of one block of 4096 bytes. `reference`, as many, may be NULL.
    const uint8_t* block
    const uint8_t* reference
    uint64_t digest
    uint64_t reference_digest
    uint64_t seed
    uint32_t size_bytes
    uint32_t spared_bytes
    int encoding
    # For the block alone, with the encoding that it gets by it; NULL and DENSE without.
    const ZSTD_CDict* dictionary
    int alone_encoding
    # What came of it: a record if `record_bytes` is not 0.
    int record_bytes
    bint becomes_patch
    uint8_t record[4192]

cdef struct Limits:
    # What a record has to save to be taken.
    uint32_t gain_bytes
    uint32_t patch_gain_bytes
    double enough_share

cdef class Recompressor:
    cdef readonly Codec codec
    cdef Limits limits
    cdef uint8_t other[4192]

    # Leaves the record that stores least in the job, and none if it is not worth it.
    cdef void encode_job(self, Job* job, bint hard, double gain_share) noexcept nogil
    # Has zstd allocate its tables for `hard` or not, which it does when it encodes for the first time, with a reference
    # or with a dictionary.
    cdef void allocate(self, bint hard, const ZSTD_CDict* dictionary) noexcept nogil
