# What changes the words of rows whose records move, for compiled code. What it promises stands in publish.pyi.

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from blockstore.plane.tables.log cimport Append, LogState
from blockstore.plane.tables.tables cimport Columns

cdef enum:
    # What is appended in one write: enough that what the call itself takes is a tenth. malloc(3) keeps memory for that.
    CHUNK_BYTES = 1 << 16
    CHUNK_RECORDS = 256

cdef struct Chunk:
    # Copies of records that lie one behind the other, their rows, and the words of these.
    int count
    uint64_t size_bytes
    uint64_t ends[CHUNK_RECORDS]
    uint64_t where[CHUNK_RECORDS]
    uint32_t rows[CHUNK_RECORDS]
    uint8_t records[CHUNK_BYTES]

# How many bytes of records can be appended at once, at most a chunk's; 0 when Python has to make room.
cdef uint64_t room_for_chunk(const LogState* log) noexcept nogil

# Adds the record of a row, of which this is the word, if the chunk has at most `most_bytes` then. Returns whether it has.
# `record` has `there_bytes` bytes: of a damaged row that may be less than its record, and the rest is zeros.
cdef bint add_record(
    Chunk* chunk, uint64_t most_bytes, uint32_t row, uint64_t where, const uint8_t* record, uint64_t there_bytes
) noexcept nogil

# Appends the records of a chunk that is not empty, lets their rows have them, and gives up those that the rows had. With
# the store lock, while the words are those of the rows. Unless it returns APPENDED nothing has changed.
cdef Append publish_chunk(Columns* columns, LogState* log, const Chunk* chunk) noexcept nogil

# Lets a row have the record at another place, and gives up the one that it had. With the store lock.
cdef void publish_word(Columns* columns, LogState* log, uint32_t row, uint64_t before, uint64_t after) noexcept nogil


cdef inline void copy_record(
    uint8_t* target, uint64_t size_bytes, const uint8_t* record, uint64_t there_bytes
) noexcept nogil:
    """Copies a record of which so many bytes are there; zeros stand for the others."""
    cdef uint64_t copied_bytes = min(size_bytes, there_bytes)
    if copied_bytes:
        memcpy(target, record, copied_bytes)
    if copied_bytes < size_bytes:
        memset(target + copied_bytes, 0, size_bytes - copied_bytes)
