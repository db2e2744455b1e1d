"""Moves records to the head of the log. See compaction.pyi."""

from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from blockstore.plane.codec.layout cimport is_paged, offset_of, size_of
from blockstore.plane.moves.placed_rows cimport Listed, PlacedRows, PlaceTable, is_placed
from blockstore.plane.moves.publish cimport Chunk, add_record, publish_chunk, room_for_chunk
from blockstore.plane.tables.log cimport APPENDED, Log, LogState, can_let_go
from blockstore.plane.tables.tables cimport Columns


def compact(Log log not None, PlacedRows placed not None, uint32_t most_rows):
    cdef Chunk* chunk
    cdef uint64_t taken
    if not can_let_go(&log.state, most_rows):
        raise ValueError(f"{most_rows} rows at once, or nobody has taken back what was let go")
    chunk = <Chunk*>malloc(sizeof(Chunk))
    if chunk == NULL:
        raise MemoryError("no memory to copy records")
    with nogil:
        taken = move(&placed.tables.columns, &log.state, &placed.places, &placed.listed, most_rows, chunk)
    free(chunk)
    return taken


cdef uint64_t move(
    Columns* columns, LogState* log, const PlaceTable* places, Listed* listed, uint64_t most_rows, Chunk* chunk
) noexcept nogil:
    """Takes rows of the list, a chunk at a time. Returns how many it took."""
    cdef uint64_t first = listed.next, end, taken
    end = first + min(most_rows, listed.end - first)
    log.error = 0
    while listed.next < end:
        taken = fill(columns, places, listed, end, room_for_chunk(log), chunk)
        if not taken or (chunk.count and publish_chunk(columns, log, chunk) != APPENDED):
            break
        listed.next += taken
    return listed.next - first


cdef uint64_t fill(
    const Columns* columns, const PlaceTable* places, const Listed* listed, uint64_t end, uint64_t most_bytes,
    Chunk* chunk,
) noexcept nogil:
    """Fills the chunk with the records of the next rows that are still in one of the places. Returns how many rows that are,
    with those that are not."""
    cdef uint64_t number, where, offset
    cdef uint32_t row
    chunk.count, chunk.size_bytes = 0, 0
    for number in range(listed.next, end):
        row = listed.rows[number]
        where = columns.where[row] if row < columns.capacity else 0
        if not is_placed(places, where) or is_paged(where) or not size_of(where):
            continue
        offset = min(offset_of(where), columns.pool_bytes)
        if not add_record(chunk, most_bytes, row, where, columns.pool + offset, columns.pool_bytes - offset):
            return number - listed.next
    return end - listed.next
