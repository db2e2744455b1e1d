# What changes tables that are shared with the next process, for compiled code. What it promises stands in commit.pyi.

from libc.stdint cimport uint32_t, uint64_t

from blockstore.plane.tables.block_map cimport MapView
from blockstore.plane.blocks.encode cimport Batch
from blockstore.plane.tables.free_rows cimport ChangedRows, FreeRows, FreeStack, Marks
from blockstore.plane.sync.lock cimport StoreLock
from blockstore.plane.tables.log cimport Log, LogState
from blockstore.plane.tables.tables cimport Columns, Tables

cdef enum Outcome:
    OUTCOME_COMMITTED
    OUTCOME_STALE  # what was looked up is not so any more: encode again
    OUTCOME_NEEDS_PYTHON  # which reserves room
    OUTCOME_DROPPED  # the volume is deleted

cdef struct Books:
    # All that commit changes besides the batch's indexes and maps.
    Columns* columns
    FreeStack* free_rows
    Marks* changed
    LogState* log

cdef struct Target:
    # Blocks of a volume: `count` from `first` on.
    MapView* view
    uint64_t first
    uint64_t count

cdef class Commit:
    cdef Books books
    # These hold what the books point at.
    cdef Tables tables
    cdef FreeRows free_rows
    cdef ChangedRows changed
    cdef Log log
    # Raises ValueError unless there is room to note what so many rows let go.
    cdef int check_room(self, uint64_t rows) except -1

# One map entry more points at the row of each of these that has one, and is not damaged: its check is that of the row.
cdef void acquire_entries(Books* books, const uint64_t* entries, uint64_t count) noexcept nogil

# These map entries are gone, and with them the rows that nothing points at any more, and their references if these were
# the last patches against them. There must be room to note that (log.pxd, `can_let_go`).
cdef void drop_entries(Books* books, const uint64_t* entries, uint64_t count) noexcept nogil

# Publishes a batch as the blocks of these targets, which have as many together; with the store lock. Unless it returns
# OUTCOME_COMMITTED nothing has changed.
cdef Outcome commit_batch(
    Books* books, Batch batch, const Target* targets, int count, int reserved_segments, bint is_reserved
) noexcept nogil

# Writes whole blocks of a loaded batch to a volume from block `first` on, and lets its size be at least `end_bytes`. Waits
# for the lock to commit; who has it already gives None. OUTCOME_STALE is not returned.
cdef Outcome write_blocks(
    Books* books, Batch batch, MapView* view, uint64_t first, uint64_t end_bytes, int reserved_segments, StoreLock lock
) noexcept nogil

# The part of it that is done with the lock.
cdef Outcome commit_write(
    Books* books, Batch batch, MapView* view, uint64_t first, uint64_t end_bytes, int reserved_segments
) noexcept nogil

# Stores the size of a volume, of which the blocks beyond it are holes; with the store lock. It must be bound.
cdef void publish_size(MapView* view, uint64_t size_bytes) noexcept nogil

# One patch less is against this row, which is freed if nothing needs it any more; with the store lock. There must be room
# to let go of its record (`can_let_go`).
cdef void release_reference(Books* books, uint32_t reference) noexcept nogil
