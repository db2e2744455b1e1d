"""Dictionaries for cold blocks. See dictionary.pyi."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from blockstore.plane.codec.layout cimport BLOCK_BYTES

cdef extern from *:
    """
    /* What tables are made with, and training with given parameters, is in the library, and declared for those who say
     * that they know that it may change. */
    #define ZSTD_STATIC_LINKING_ONLY
    #define ZDICT_STATIC_LINKING_ONLY
    #include <zdict.h>
    #include <zstd.h>

    static ZSTD_DDict* new_decoder(const void* content, size_t size)
    {
        return ZSTD_createDDict_advanced(content, size, ZSTD_dlm_byRef, ZSTD_dct_fullDict, ZSTD_defaultCMem);
    }

    static ZSTD_CDict* new_tables(const void* content, size_t size, const int* parameters)
    {
        ZSTD_compressionParameters all = {
            .windowLog = parameters[0],
            .chainLog = parameters[1],
            .hashLog = parameters[2],
            .searchLog = parameters[3],
            .minMatch = parameters[4],
            .targetLength = parameters[5],
            .strategy = (ZSTD_strategy)parameters[6],
        };
        return ZSTD_createCDict_advanced(content, size, ZSTD_dlm_byRef, ZSTD_dct_fullDict, all, ZSTD_defaultCMem);
    }

    static size_t train_fast_cover(
        void* dictionary, size_t room, const void* samples, const size_t* sizes, unsigned count, int level)
    {
        /* Pieces of 200 bytes give the smallest records of guests' blocks (50: 0.4 % more, 1024: 0.1 %, 2000: 0.6 %).
         * 2^18 counters of strings take 1.5 MB. */
        ZDICT_fastCover_params_t parameters = {.k = 200, .d = 8, .f = 18, .accel = 1};
        parameters.zParams.compressionLevel = level;
        return ZDICT_trainFromBuffer_fastCover(dictionary, room, samples, sizes, count, parameters);
    }
    """
    ZSTD_DDict* new_decoder(const void* content, size_t size) nogil
    ZSTD_CDict* new_tables(const void* content, size_t size, const int* parameters) nogil
    size_t train_fast_cover(
        void* dictionary, size_t room, const void* samples, const size_t* sizes, unsigned count, int level
    ) nogil

cdef extern from "zdict.h" nogil:
    unsigned ZDICT_isError(size_t code)

cdef extern from "zstd.h" nogil:
    ctypedef enum ZSTD_strategy:
        ZSTD_lazy
        ZSTD_btopt
    size_t ZSTD_freeDDict(ZSTD_DDict* dictionary)
    size_t ZSTD_freeCDict(ZSTD_CDict* dictionary)
    size_t ZSTD_sizeof_DDict(const ZSTD_DDict* dictionary)
    size_t ZSTD_sizeof_CDict(const ZSTD_CDict* dictionary)


DICTIONARY_BYTES = 64 << 10

cdef enum:
    LEVEL = 5  # for which the tables of symbols are made: that of the first look

# By `hard`, as COLD_PARAMETERS of codec.pyx, but with tables that have room for all of a dictionary, and with a window
# that reaches its beginning from the end of a block. The hard encoder looks at twice as many matches, and takes the
# first of 32 bytes: a quarter more time for 0.8 % less, in blocks that have been cold for long.
# The block's own tables are fitted to its size by zstd.
cdef int[2][7] DICTIONARY_PARAMETERS = [
    [17, 16, 16, 3, 4, 4, ZSTD_lazy],
    [17, 17, 16, 3, 3, 32, ZSTD_btopt],
]


cdef class Dictionary:
    def __cinit__(self, content):
        cdef Py_buffer source
        PyObject_GetBuffer(content, &source, PyBUF_SIMPLE)
        self.size_bytes = source.len
        self.bytes_held = <uint8_t*>malloc(self.size_bytes + 1)
        if self.bytes_held != NULL:
            memcpy(self.bytes_held, source.buf, self.size_bytes)
        PyBuffer_Release(&source)
        if self.bytes_held == NULL:
            raise MemoryError("no memory for a dictionary")
        self.decoder = new_decoder(self.bytes_held, self.size_bytes)
        if self.decoder == NULL:
            raise ValueError(f"{self.size_bytes} bytes that are no dictionary of zstd's")

    def __dealloc__(self):
        ZSTD_freeDDict(self.decoder)
        free(self.bytes_held)

    def __sizeof__(self):
        return sizeof(Dictionary) + self.size_bytes + ZSTD_sizeof_DDict(self.decoder)

    def content(self):
        return PyBytes_FromStringAndSize(<const char*>self.bytes_held, self.size_bytes)

    def encoder(self, int slot, *, bint hard):
        return DictionaryEncoder(self, slot, hard)


cdef class DictionaryEncoder:
    def __cinit__(self, Dictionary dictionary not None, int slot, bint hard):
        self.dictionary, self.slot = dictionary, slot
        with nogil:
            self.tables = new_tables(dictionary.bytes_held, dictionary.size_bytes, DICTIONARY_PARAMETERS[hard])
        if self.tables == NULL:
            raise MemoryError("no memory for the tables of a dictionary")

    def __dealloc__(self):
        ZSTD_freeCDict(self.tables)

    def __sizeof__(self):
        return sizeof(DictionaryEncoder) + ZSTD_sizeof_CDict(self.tables)


def train(samples, size_t size_bytes):
    cdef Py_buffer source
    cdef size_t* sizes
    cdef uint8_t* made
    cdef size_t number, count, made_bytes = 0
    PyObject_GetBuffer(samples, &source, PyBUF_SIMPLE)
    count = source.len // BLOCK_BYTES
    sizes = <size_t*>malloc((count + 1) * sizeof(size_t))
    made = <uint8_t*>malloc(size_bytes + 1)
    try:
        if <size_t>source.len != count * BLOCK_BYTES:
            raise ValueError(f"{source.len} bytes are no whole blocks")
        if sizes == NULL or made == NULL:
            raise MemoryError("no memory to train a dictionary in")
        with nogil:
            for number in range(count):
                sizes[number] = BLOCK_BYTES
            made_bytes = train_fast_cover(made, size_bytes, source.buf, sizes, <unsigned>count, LEVEL)
        return None if ZDICT_isError(made_bytes) else PyBytes_FromStringAndSize(<const char*>made, made_bytes)
    finally:
        free(sizes)
        free(made)
        PyBuffer_Release(&source)
