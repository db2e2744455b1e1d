# What map entries and rows must be like, for compiled code. What is judged stands in soundness.pyi.

from libc.stdint cimport int64_t, uint8_t, uint64_t

from blockstore.plane.tables.tables cimport Columns

cdef enum:
    # Entries that are judged together: what they point at is asked of memory for all of them before it is looked at.
    BATCH_ENTRIES = 64

cdef struct Room:
    uint64_t segments
    const int64_t* piece_lengths
    uint64_t pieces
    uint64_t arrivals

cdef class Places:
    cdef Room room
    cdef const int64_t[::1] lengths

# Says of each of at most BATCH_ENTRIES map entries whether it is sound.
cdef void judge(
    const uint64_t* entries, uint64_t count, const Columns* columns, const Room* room, uint8_t* sound
) noexcept nogil
