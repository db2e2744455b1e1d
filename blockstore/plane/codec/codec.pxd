# The codec for compiled code. What it does and what each function returns stands in codec.pyi.

from libc.stdint cimport uint8_t, uint64_t

from blockstore.plane.codec.dictionary cimport ZSTD_CDict, ZSTD_DDict

cdef extern from "lz4.h" nogil:
    ctypedef union LZ4_stream_t:
        pass

cdef extern from "zstd.h" nogil:
    ctypedef struct ZSTD_CCtx:
        pass
    ctypedef struct ZSTD_DCtx:
        pass

cdef enum:
    # Room for whatever an encoder writes for one block: LZ4_compressBound(4096) is 4128, ZSTD_compressBound(4096) 4175.
    RECORD_LIMIT_BYTES = 4192
    FRAME_HEADER_BYTES = 3

cdef struct Contexts:
    # Of one thread. `cold` is by `hard`; `frame` is scratch for a record behind its frame's header, and `pair` for a
    # reference with the block behind it.
    LZ4_stream_t* lz4
    ZSTD_CCtx* cold[2]
    ZSTD_DCtx* cold_decoder
    uint8_t frame[4192]
    uint8_t pair[8192]

cdef class Codec:
    cdef Contexts contexts

cdef uint64_t digest_of(const uint8_t* block, uint64_t seed) noexcept nogil
cdef int encode_hot(Contexts* contexts, const uint8_t* block, const uint8_t* reference, uint8_t* record) noexcept nogil
cdef int encode_cold(
    Contexts* contexts, const uint8_t* block, const uint8_t* reference, bint hard, const ZSTD_CDict* dictionary, uint8_t* record
) noexcept nogil
cdef int decode_record(
    Contexts* contexts,
    const uint8_t* record,
    size_t size_bytes,
    int encoding,
    const uint8_t* reference,
    const ZSTD_DDict* dictionary,
    uint8_t* block,
) noexcept nogil
