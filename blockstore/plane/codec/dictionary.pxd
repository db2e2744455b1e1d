# Dictionaries for compiled code. What they are stands in dictionary.pyi.

from libc.stdint cimport uint8_t

cdef extern from "zstd.h" nogil:
    ctypedef struct ZSTD_CDict:
        pass
    ctypedef struct ZSTD_DDict:
        pass

cdef class Dictionary:
    cdef uint8_t* bytes_held
    cdef readonly size_t size_bytes
    cdef ZSTD_DDict* decoder

cdef class DictionaryEncoder:
    cdef readonly Dictionary dictionary
    cdef readonly int slot
    cdef ZSTD_CDict* tables
