# Rows that a pass of re-encoding is to try, for compiled code. Which these are stands in cold_scan.pyi.

from libc.stdint cimport uint32_t, uint64_t

from blockstore.plane.moves.cold_segments cimport ColdSegments
from blockstore.plane.tables.tables cimport Columns, Tables

cdef class ColdScan:
    cdef Tables tables
    cdef ColdSegments segments
    cdef uint32_t minimum_bytes
    cdef double lone_share
    cdef readonly uint32_t encodings
    cdef uint64_t rows_a_step
    cdef uint64_t scanned  # rows below were looked at
    # Rows that were found and not taken yet: those from place `first` to `end` of `rows_a_step` places.
    cdef uint32_t* rows
    cdef uint64_t first
    cdef uint64_t end

    cdef void look(self, uint64_t end) noexcept nogil
    cdef bint is_wanted(self, const Columns* columns, uint64_t row) noexcept nogil
    # Returns the next row, 0 for none.
    cdef uint32_t take(self) noexcept nogil
    # Lets a row be the next one, or the last one if none was taken since the last step; if the list is full, none.
    cdef void put_back(self, uint32_t row) noexcept nogil


cdef inline bint is_tried(uint32_t encodings, int encoding) noexcept nogil:
    """Returns whether an encoding is one of a set, which has a bit for each."""
    return encodings >> encoding & 1

# Returns the size of the record of a reference that only one patch keeps; 0 for another row, and one that is paged.
cdef uint32_t spared_bytes(const Columns* columns, uint32_t reference) noexcept nogil
