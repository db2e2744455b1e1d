# Records that move between the pool and the tier, for compiled code. What they are stands in record_batch.pyi.

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from blockstore.plane.sync.epochs cimport Epochs
from blockstore.plane.tables.log cimport Log
from blockstore.plane.tables.tables cimport Tables

cdef struct Picked:
    # A row, its word and the generation of its record's place when it was picked, and where in the batch the record begins.
    uint64_t where
    int64_t generation
    uint32_t row
    uint32_t start

cdef struct Generations:
    # Of segments, and of pieces; numbers beyond these are damage.
    const int64_t* segments
    uint64_t segment_count
    const int64_t* pieces
    uint64_t piece_count

cdef class RecordBatch:
    cdef Tables tables
    cdef Log log
    cdef Epochs epochs
    cdef Picked* picked
    cdef uint32_t count
    cdef int64_t mended
    cdef bint is_inside  # the epochs, with this slot
    cdef int slot
    cdef readonly bytes data
    cdef void leave(self) noexcept
    cdef int check(self) except -1
    cdef int gather_run(self, uint32_t first, uint32_t end, object contents, uint8_t* target) except -1
