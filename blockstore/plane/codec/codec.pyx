"""Turns blocks into records and back: LZ4 for what is hot, zstd for what is cold, each with or without a reference.

See codec.pyi. Decoders never write outside the block they are given. zstd allocates its tables when an encoder is first
used; an encoder that could not allocate returns 0, and the block is stored as it is.
"""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport UINT64_MAX, uint8_t, uint64_t
from libc.string cimport memcpy, memset

from blockstore.plane.codec.dictionary cimport Dictionary, DictionaryEncoder, ZSTD_CDict, ZSTD_DDict
from blockstore.plane.codec.layout cimport (
    BLOCK_BYTES,
    COMPRESSED,
    DENSE,
    DENSE_PATCHED,
    PATCHED,
    RAW,
    needs_dictionary,
)


cdef extern from *:
    """
    #define XXH_INLINE_ALL
    #include <xxhash.h>
    """
    uint64_t XXH3_64bits_withSeed(const void* data, size_t size, uint64_t seed) nogil

cdef extern from "lz4.h" nogil:
    LZ4_stream_t* LZ4_createStream()
    int LZ4_freeStream(LZ4_stream_t* stream)
    int LZ4_loadDict(LZ4_stream_t* stream, const char* dictionary, int size)
    int LZ4_compress_fast_extState(void* state, const char* source, char* target, int size, int room, int acceleration)
    int LZ4_compress_fast_continue(
        LZ4_stream_t* stream, const char* source, char* target, int size, int room, int acceleration
    )
    int LZ4_decompress_safe(const char* source, char* target, int size, int room)
    int LZ4_decompress_safe_usingDict(
        const char* source, char* target, int size, int room, const char* dictionary, int dictionary_size
    )

cdef extern from "zstd.h" nogil:
    ctypedef enum ZSTD_cParameter:
        ZSTD_c_windowLog
        ZSTD_c_hashLog
        ZSTD_c_chainLog
        ZSTD_c_searchLog
        ZSTD_c_minMatch
        ZSTD_c_targetLength
        ZSTD_c_strategy
        ZSTD_c_contentSizeFlag
        ZSTD_c_checksumFlag
        ZSTD_c_dictIDFlag
        ZSTD_c_experimentalParam2
        ZSTD_c_experimentalParam4
    ctypedef enum ZSTD_dParameter:
        ZSTD_d_experimentalParam1
    ctypedef enum ZSTD_strategy:
        ZSTD_lazy
        ZSTD_btopt
    ZSTD_CCtx* ZSTD_createCCtx()
    size_t ZSTD_freeCCtx(ZSTD_CCtx* context)
    size_t ZSTD_CCtx_setParameter(ZSTD_CCtx* context, ZSTD_cParameter parameter, int value)
    size_t ZSTD_CCtx_refPrefix(ZSTD_CCtx* context, const void* prefix, size_t size)
    size_t ZSTD_CCtx_refCDict(ZSTD_CCtx* context, const ZSTD_CDict* dictionary)
    size_t ZSTD_compress2(ZSTD_CCtx* context, void* target, size_t room, const void* source, size_t size)
    ZSTD_DCtx* ZSTD_createDCtx()
    size_t ZSTD_freeDCtx(ZSTD_DCtx* context)
    size_t ZSTD_DCtx_setParameter(ZSTD_DCtx* context, ZSTD_dParameter parameter, int value)
    size_t ZSTD_DCtx_refPrefix(ZSTD_DCtx* context, const void* prefix, size_t size)
    size_t ZSTD_sizeof_CCtx(const ZSTD_CCtx* context)
    size_t ZSTD_sizeof_DCtx(const ZSTD_DCtx* context)
    size_t ZSTD_decompressDCtx(ZSTD_DCtx* context, void* target, size_t room, const void* source, size_t size)
    size_t ZSTD_decompress_usingDDict(
        ZSTD_DCtx* context, void* target, size_t room, const void* source, size_t size, const ZSTD_DDict* dictionary
    )
    unsigned ZSTD_isError(size_t code)
    const char* ZSTD_getErrorName(size_t code)

cdef enum:
    MAGICLESS = 1  # ZSTD_f_zstd1_magicless, of ZSTD_c_format (zstd.h)
    ATTACH = 1  # ZSTD_dictForceAttach, of ZSTD_c_forceAttachDict

# By `hard`: what levels 5 and 12 of zstd 1.5 are for a block with a prefix (its clevels.h, sources up to 16 KiB), set by
# hand so that another version makes the same records in the same time. 12 is the lowest level with matches of three
# bytes and a parser that weighs them against each other. The hard encoder looks at a quarter of level 12's matches and
# takes the first of 16 bytes: a quarter less time for 0.7 % more bytes.
cdef int[2][7] COLD_PARAMETERS = [
    [13, 14, 13, 3, 4, 4, ZSTD_lazy],
    [13, 14, 14, 2, 3, 16, ZSTD_btopt],
]
cdef ZSTD_cParameter[7] COLD_PARAMETER = [
    ZSTD_c_windowLog,
    ZSTD_c_hashLog,
    ZSTD_c_chainLog,
    ZSTD_c_searchLog,
    ZSTD_c_minMatch,
    ZSTD_c_targetLength,
    ZSTD_c_strategy,
]

# Of a frame in one segment with 4096 bytes of content, without magic number, checksum and dictionary id (RFC 8878,
# section 3.1.1.1): damage to a record can never ask the decoder for another size, window or dictionary.
cdef uint8_t* FRAME_HEADER = [0x60, 0x00, 0x0F]

cdef uint64_t digest_mask = UINT64_MAX
cdef uint64_t digest_flip = 0


def collide(uint64_t mask, uint64_t flip):
    global digest_mask, digest_flip
    digest_mask, digest_flip = mask, flip


cdef uint64_t digest_of(const uint8_t* block, uint64_t seed) noexcept nogil:
    return XXH3_64bits_withSeed(block, BLOCK_BYTES, seed) & digest_mask ^ digest_flip


cdef int encode_hot(Contexts* contexts, const uint8_t* block, const uint8_t* reference, uint8_t* record) noexcept nogil:
    """Returns the bytes written to `record`, which has RECORD_LIMIT_BYTES. `reference` is a block, or NULL."""
    if reference == NULL:
        return LZ4_compress_fast_extState(
            contexts.lz4, <const char*>block, <char*>record, BLOCK_BYTES, RECORD_LIMIT_BYTES, 1
        )
    LZ4_loadDict(contexts.lz4, <const char*>reference, BLOCK_BYTES)
    return LZ4_compress_fast_continue(
        contexts.lz4, <const char*>block, <char*>record, BLOCK_BYTES, RECORD_LIMIT_BYTES, 1
    )


cdef int encode_cold(
    Contexts* contexts, const uint8_t* block, const uint8_t* reference, bint hard, const ZSTD_CDict* dictionary, uint8_t* record
) noexcept nogil:
    """Returns the bytes written to `record`, which has RECORD_LIMIT_BYTES; 0 when zstd has no memory for its tables, or
    writes a header that is not FRAME_HEADER, which no version does that is known. A block alone may be given a
    `dictionary`, made for `hard`."""
    cdef ZSTD_CCtx* context = contexts.cold[hard]
    cdef const uint8_t* source = block
    cdef size_t size
    if reference != NULL:
        # A prefix that the block follows in memory is searched as part of it; elsewhere it is a second window, which
        # takes a tenth more time (libzstd 1.5.4).
        memcpy(contexts.pair, reference, BLOCK_BYTES)
        memcpy(contexts.pair + BLOCK_BYTES, block, BLOCK_BYTES)
        source = contexts.pair + BLOCK_BYTES
        if ZSTD_isError(ZSTD_CCtx_refPrefix(context, contexts.pair, BLOCK_BYTES)):
            return 0
    # The context of an earlier call may still have a dictionary that is gone by now.
    elif ZSTD_isError(ZSTD_CCtx_refCDict(context, dictionary)):
        return 0
    size = ZSTD_compress2(context, contexts.frame, sizeof(contexts.frame), source, BLOCK_BYTES)
    if ZSTD_isError(size) or size <= FRAME_HEADER_BYTES:
        return 0
    if (
        contexts.frame[0] != FRAME_HEADER[0]
        or contexts.frame[1] != FRAME_HEADER[1]
        or contexts.frame[2] != FRAME_HEADER[2]
    ):
        return 0
    memcpy(record, contexts.frame + FRAME_HEADER_BYTES, size - FRAME_HEADER_BYTES)
    return <int>(size - FRAME_HEADER_BYTES)


cdef int decode_record(
    Contexts* contexts,
    const uint8_t* record,
    size_t size_bytes,
    int encoding,
    const uint8_t* reference,
    const ZSTD_DDict* dictionary,
    uint8_t* block,
) noexcept nogil:
    """Writes the 4096 bytes of a record to `block` and returns 0; -1 when the record is damaged, and then `block` has
    any content. `reference` is the block that a patch is against, and NULL for every other encoding;
    `dictionary` that of DENSE_FIRST and DENSE_SECOND, NULL if it is damaged."""
    cdef size_t size
    if size_bytes == 0 or size_bytes > BLOCK_BYTES:
        return -1
    if encoding == COMPRESSED:
        return 0 if LZ4_decompress_safe(
            <const char*>record, <char*>block, <int>size_bytes, BLOCK_BYTES
        ) == BLOCK_BYTES else -1
    if encoding == RAW:
        if size_bytes != BLOCK_BYTES:
            return -1
        memcpy(block, record, BLOCK_BYTES)
        return 0
    if encoding == PATCHED:
        if reference == NULL:
            return -1
        return 0 if LZ4_decompress_safe_usingDict(
            <const char*>record, <char*>block, <int>size_bytes, BLOCK_BYTES, <const char*>reference, BLOCK_BYTES
        ) == BLOCK_BYTES else -1
    memcpy(contexts.frame, FRAME_HEADER, FRAME_HEADER_BYTES)
    memcpy(contexts.frame + FRAME_HEADER_BYTES, record, size_bytes)
    size_bytes += FRAME_HEADER_BYTES
    if needs_dictionary(encoding):
        if dictionary == NULL:
            return -1
        size = ZSTD_decompress_usingDDict(
            contexts.cold_decoder, block, BLOCK_BYTES, contexts.frame, size_bytes, dictionary
        )
        return 0 if not ZSTD_isError(size) and size == BLOCK_BYTES else -1
    if encoding != DENSE and encoding != DENSE_PATCHED:
        return -1
    if encoding == DENSE_PATCHED:
        if reference == NULL or ZSTD_isError(ZSTD_DCtx_refPrefix(contexts.cold_decoder, reference, BLOCK_BYTES)):
            return -1
    size = ZSTD_decompressDCtx(contexts.cold_decoder, block, BLOCK_BYTES, contexts.frame, size_bytes)
    return 0 if not ZSTD_isError(size) and size == BLOCK_BYTES else -1


class DecodeError(Exception):
    """A record is damaged."""


cdef class Codec:
    def __cinit__(self):
        memset(&self.contexts, 0, sizeof(self.contexts))
        self.contexts.lz4 = LZ4_createStream()
        self.contexts.cold_decoder = ZSTD_createDCtx()
        self.contexts.cold[0] = ZSTD_createCCtx()
        self.contexts.cold[1] = ZSTD_createCCtx()
        if (
            self.contexts.lz4 == NULL
            or self.contexts.cold_decoder == NULL
            or self.contexts.cold[0] == NULL
            or self.contexts.cold[1] == NULL
        ):
            raise MemoryError("no memory for the contexts of LZ4 and zstd")
        set_parameters(&self.contexts)

    def __dealloc__(self):
        LZ4_freeStream(self.contexts.lz4)
        ZSTD_freeCCtx(self.contexts.cold[0])
        ZSTD_freeCCtx(self.contexts.cold[1])
        ZSTD_freeDCtx(self.contexts.cold_decoder)

    def __sizeof__(self):
        return (
            sizeof(Contexts)
            + sizeof(LZ4_stream_t)
            + ZSTD_sizeof_CCtx(self.contexts.cold[0])
            + ZSTD_sizeof_CCtx(self.contexts.cold[1])
            + ZSTD_sizeof_DCtx(self.contexts.cold_decoder)
        )

    def encode(self, block, reference=None):
        cdef uint8_t[RECORD_LIMIT_BYTES] record
        cdef int size
        cdef Py_buffer content
        cdef Py_buffer against
        hold_blocks(block, reference, &content, &against)
        size = encode_hot(&self.contexts, <const uint8_t*>content.buf, <const uint8_t*>against.buf, record)
        release_blocks(&content, &against)
        return PyBytes_FromStringAndSize(<const char*>record, size)

    def encode_all(self, const uint8_t[::1] blocks not None, uint64_t seed):
        cdef uint8_t[RECORD_LIMIT_BYTES] record
        cdef uint64_t digests = 0
        cdef uint64_t size_bytes = 0
        cdef Py_ssize_t number
        cdef Py_ssize_t count = blocks.shape[0] // BLOCK_BYTES
        if blocks.shape[0] != count * BLOCK_BYTES:
            raise ValueError(f"{blocks.shape[0]} bytes are no whole blocks")
        with nogil:
            for number in range(count):
                digests ^= digest_of(&blocks[number * BLOCK_BYTES], seed)
                size_bytes += encode_hot(&self.contexts, &blocks[number * BLOCK_BYTES], NULL, record)
        return digests, size_bytes

    def encode_cold(self, block, reference=None, *, bint hard=False, DictionaryEncoder encoder=None):
        cdef uint8_t[RECORD_LIMIT_BYTES] record
        cdef int size
        cdef Py_buffer content
        cdef Py_buffer against
        cdef const ZSTD_CDict* dictionary = encoder.tables if encoder is not None else NULL
        hold_blocks(block, reference, &content, &against)
        size = encode_cold(
            &self.contexts, <const uint8_t*>content.buf, <const uint8_t*>against.buf, hard, dictionary, record
        )
        release_blocks(&content, &against)
        if not size:
            raise MemoryError("zstd has no memory for its tables")
        return PyBytes_FromStringAndSize(<const char*>record, size)

    def decode(self, record, int encoding, reference=None, Dictionary dictionary=None):
        cdef int failed
        cdef size_t size_bytes
        cdef Py_buffer source
        cdef Py_buffer against
        cdef bytes block = PyBytes_FromStringAndSize(NULL, BLOCK_BYTES)
        PyObject_GetBuffer(record, &source, PyBUF_SIMPLE)
        try:
            hold_reference(reference, &against)
        except:
            PyBuffer_Release(&source)
            raise
        size_bytes = source.len
        failed = decode_record(
            &self.contexts,
            <const uint8_t*>source.buf,
            size_bytes,
            encoding,
            <const uint8_t*>against.buf,
            dictionary.decoder if dictionary is not None else NULL,
            <uint8_t*>PyBytes_AS_STRING(block),
        )
        release_blocks(&source, &against)
        if failed:
            raise DecodeError(f"it says encoding {encoding} with {size_bytes} bytes, and these do not decode")
        return block


def digest(content, uint64_t seed):
    cdef Py_buffer source
    cdef uint64_t found
    PyObject_GetBuffer(content, &source, PyBUF_SIMPLE)
    found = XXH3_64bits_withSeed(source.buf, source.len, seed)
    PyBuffer_Release(&source)
    return found


cdef int hold_blocks(object block, object reference, Py_buffer* content, Py_buffer* against) except -1:
    """Fills both buffers, which the caller releases. Holds none when it raises."""
    PyObject_GetBuffer(block, content, PyBUF_SIMPLE)
    try:
        refuse_other_sizes(content, "block")
        hold_reference(reference, against)
    except:
        PyBuffer_Release(content)
        raise
    return 0


cdef int hold_reference(object reference, Py_buffer* against) except -1:
    """Fills the buffer, with NULL for None. Holds nothing when it raises."""
    memset(against, 0, sizeof(against[0]))
    if reference is None:
        return 0
    PyObject_GetBuffer(reference, against, PyBUF_SIMPLE)
    try:
        refuse_other_sizes(against, "reference")
    except:
        PyBuffer_Release(against)
        raise
    return 0


cdef int refuse_other_sizes(const Py_buffer* held, str name) except -1:
    if held.len != BLOCK_BYTES:
        raise ValueError(f"a {name} of {held.len} bytes; it must be {BLOCK_BYTES}")
    return 0


cdef void release_blocks(Py_buffer* content, Py_buffer* against) noexcept:
    PyBuffer_Release(content)
    if against.obj is not None:
        PyBuffer_Release(against)


cdef int set_parameters(Contexts* contexts) except -1:
    cdef int hard, number
    for hard in range(2):
        for number in range(7):
            refuse_failure(
                ZSTD_CCtx_setParameter(contexts.cold[hard], COLD_PARAMETER[number], COLD_PARAMETERS[hard][number])
            )
        refuse_failure(ZSTD_CCtx_setParameter(contexts.cold[hard], ZSTD_c_contentSizeFlag, 1))
        refuse_failure(ZSTD_CCtx_setParameter(contexts.cold[hard], ZSTD_c_checksumFlag, 0))
        refuse_failure(ZSTD_CCtx_setParameter(contexts.cold[hard], ZSTD_c_dictIDFlag, 0))
        refuse_failure(ZSTD_CCtx_setParameter(contexts.cold[hard], ZSTD_c_experimentalParam2, MAGICLESS))
        refuse_failure(ZSTD_CCtx_setParameter(contexts.cold[hard], ZSTD_c_experimentalParam4, ATTACH))
    return refuse_failure(ZSTD_DCtx_setParameter(contexts.cold_decoder, ZSTD_d_experimentalParam1, MAGICLESS))


cdef int refuse_failure(size_t code) except -1:
    if ZSTD_isError(code):
        raise RuntimeError(f"this libzstd refuses a parameter of the codec: {ZSTD_getErrorName(code).decode()}")
    return 0
