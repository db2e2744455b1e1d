"""What changes the words of rows whose records move. See publish.pyi."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

from blockstore.plane.codec.layout cimport OFFSET_SHIFT, size_of
from blockstore.plane.sync.atomics cimport publish_64
from blockstore.plane.tables.log cimport APPENDED, Append, LogState, Placed, append_records, let_go_of
from blockstore.plane.tables.tables cimport Columns

cdef enum:
    BELOW_OFFSET = (1 << OFFSET_SHIFT) - 1

include "../sync/points.pxi"


cdef uint64_t room_for_chunk(const LogState* log) noexcept nogil:
    return <uint64_t>CHUNK_BYTES if log.spare >= 0 else min(log.head_end - log.tail, <uint64_t>CHUNK_BYTES)


cdef bint add_record(
    Chunk* chunk, uint64_t most_bytes, uint32_t row, uint64_t where, const uint8_t* record, uint64_t there_bytes
) noexcept nogil:
    cdef uint64_t size_bytes = size_of(where)
    if chunk.count == CHUNK_RECORDS or chunk.size_bytes + size_bytes > most_bytes:
        return False
    copy_record(chunk.records + chunk.size_bytes, size_bytes, record, there_bytes)
    chunk.size_bytes += size_bytes
    chunk.ends[chunk.count] = chunk.size_bytes
    chunk.where[chunk.count], chunk.rows[chunk.count] = where, row
    chunk.count += 1
    return True


cdef Append publish_chunk(Columns* columns, LogState* log, const Chunk* chunk) noexcept nogil:
    cdef Placed placed
    cdef uint64_t offset, where
    cdef int number
    cdef Append outcome = append_records(log, chunk.records, chunk.ends, chunk.count, &placed)
    if outcome != APPENDED:
        return outcome
    offset = placed.first
    for number in range(chunk.count):
        if number == placed.split:
            offset = placed.second
        where = chunk.where[number]
        publish_word(columns, log, chunk.rows[number], where, offset << OFFSET_SHIFT | where & BELOW_OFFSET)
        offset += size_of(where)
    return outcome


cdef void publish_word(Columns* columns, LogState* log, uint32_t row, uint64_t before, uint64_t after) noexcept nogil:
    publish_64(&columns.where[row], after)
    let_go_of(log, before)
