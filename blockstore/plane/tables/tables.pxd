# The tables of a store, for compiled code. Who may bind and write them stands in tables.pyi.

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

from blockstore.plane.codec.dictionary cimport ZSTD_DDict
from blockstore.plane.codec.layout cimport DENSE_FIRST, encoding_of
from blockstore.plane.sync.atomics cimport load_16, load_64, load_pointer

cdef enum:
    SLOTS = 2
    MAXIMUM_DOMAINS = 65536  # a row's index has 16 bits

cdef struct DomainDictionaries:
    # By slot: NULL for none, and for one that is damaged.
    const ZSTD_DDict* decoders[SLOTS]
    # The one of them with which blocks may be encoded now, or NULL.
    const ZSTD_DDict* current
    # A bit for each slot that has one, damaged or not.
    uint64_t known

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
    # MAXIMUM_DOMAINS of them; NULL in tables that are bound to no store.
    const DomainDictionaries* dictionaries

cdef class Tables:
    cdef Columns columns
    cdef DomainDictionaries* dictionaries
    cdef dict held
    cdef uint64_t[::1] where
    cdef uint64_t[::1] digest
    cdef uint32_t[::1] reference
    cdef uint16_t[::1] domain
    cdef uint32_t[::1] count
    cdef uint16_t[::1] dependents
    cdef const uint8_t[::1] pool


cdef inline const ZSTD_DDict* decoder_of(const Columns* columns, uint64_t row, uint64_t where) noexcept nogil:
    """The dictionary that a record of a row needs, by its word; NULL if there is none, or it is damaged."""
    if columns.dictionaries == NULL:
        return NULL
    return <const ZSTD_DDict*>load_pointer(
        &columns.dictionaries[load_16(&columns.domain[row])].decoders[encoding_of(where) - DENSE_FIRST]
    )


cdef inline bint has_dictionary(const Columns* columns, uint64_t row, uint64_t where) noexcept nogil:
    """Whether there is, damaged or not, the dictionary that a record of a row needs."""
    if columns.dictionaries == NULL:
        return False
    return load_64(&columns.dictionaries[load_16(&columns.domain[row])].known) >> (encoding_of(where) - DENSE_FIRST) & 1
